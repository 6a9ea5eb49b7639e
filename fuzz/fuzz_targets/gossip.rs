//! See [`quorate_fuzz::gossip`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::gossip(bytes));
