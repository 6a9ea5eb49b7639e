//! See [`quorate_fuzz::connections`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::connections(bytes));
