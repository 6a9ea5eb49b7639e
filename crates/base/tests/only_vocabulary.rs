//! Keeps `base` from becoming the crate where everything ends up.

#[test]
fn base_holds_only_its_modules() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut files: Vec<String> = std::fs::read_dir(source)
        .expect("the source folder is readable")
        .map(|entry| {
            entry
                .expect("the entry is readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "checksum.rs",
            "id.rs",
            "lib.rs",
            "mutant.rs",
            "random.rs",
            "time.rs"
        ],
        "base holds ids, time types, checksums, seeded random and switches of planted bugs"
    );
}
