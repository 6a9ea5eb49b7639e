//! See [`quorate_fuzz::gateway`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::gateway(bytes));
