//! See [`quorate_fuzz::journal`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::journal(bytes));
