//! See [`quorate_fuzz::checkpoints`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::checkpoints(bytes));
