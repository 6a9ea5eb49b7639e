//! Compiles `proto/` into Rust types, without `protoc`, and tells dependents' build scripts where
//! the files are: they generate services over these types (`DEP_QUORATE_ETCD_PROTO`).

use std::io::Error;
use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Error> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto");
    println!("cargo::metadata=PROTO={}", folder.display());
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new([&folder]).map_err(Error::other)?;
    compiler.include_imports(true).include_source_info(true);
    for file in [
        "etcdserverpb/rpc.proto",
        "v3lockpb/v3lock.proto",
        "v3electionpb/v3election.proto",
    ] {
        compiler.open_file(file).map_err(Error::other)?;
    }
    let with_comments = compiler.file_descriptor_set();

    let mut plain = with_comments.clone();
    for file in &mut plain.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(Error::other("no OUT_DIR"))?);
    std::fs::write(out.join("descriptors.bin"), plain.encode_to_vec())?;

    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(with_comments)
}
