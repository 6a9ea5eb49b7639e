//! Writes inputs to begin with into `corpus/TARGET/`, for the targets named on the command line.

#![no_main]

use std::path::Path;
use std::{env, fs, process};

libfuzzer_sys::fuzz_target!(
    init: {
        for target in env::args().skip(1) {
            write(&target);
        }
        process::exit(0)
    },
    |_bytes: &[u8]| {}
);

fn write(target: &str) {
    let folder = Path::new("corpus").join(target);
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (number, seed) in quorate_fuzz::seeds::of(target).iter().enumerate() {
        let file = folder.join(format!("seed-{number}"));
        fs::write(file, seed).expect("the seed can be written");
    }
}
