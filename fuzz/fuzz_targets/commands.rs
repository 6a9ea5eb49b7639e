//! See [`quorate_fuzz::commands`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::commands(bytes));
