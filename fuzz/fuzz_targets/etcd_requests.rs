//! See [`quorate_fuzz::etcd_requests`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::etcd_requests(bytes));
