//! See [`quorate_fuzz::engine_messages`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::engine_messages(bytes));
