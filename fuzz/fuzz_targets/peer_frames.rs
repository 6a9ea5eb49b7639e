//! See [`quorate_fuzz::peer_frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::peer_frames(bytes));
