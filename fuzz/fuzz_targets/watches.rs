//! See [`quorate_fuzz::watches`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::watches(bytes));
