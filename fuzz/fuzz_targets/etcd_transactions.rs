//! See [`quorate_fuzz::etcd_transactions`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate_fuzz::etcd_transactions(bytes));
