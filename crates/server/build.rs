//! Generates the gRPC services over the message types of the `etcd` crate, without `protoc`. Only
//! services that are served here are generated; a call of any other is answered "unimplemented"
//! by the router.

use std::io::Error;
use std::path::PathBuf;

const SERVICES: &[&str] = &[
    "KV",
    "Lease",
    "Cluster",
    "Maintenance",
    "Auth",
    "Lock",
    "Election",
];

fn main() -> Result<(), Error> {
    let folder = std::env::var_os("DEP_QUORATE_ETCD_PROTO").map(PathBuf::from);
    let folder = folder.ok_or(Error::other(
        "the etcd crate names the folder of its definitions",
    ))?;
    println!("cargo::rerun-if-changed={}", folder.display());

    let mut compiler = protox::Compiler::new([&folder]).map_err(Error::other)?;
    compiler.include_imports(true);
    for file in [
        "etcdserverpb/rpc.proto",
        "v3lockpb/v3lock.proto",
        "v3electionpb/v3election.proto",
    ] {
        compiler.open_file(file).map_err(Error::other)?;
    }
    let mut files = compiler.file_descriptor_set();
    for file in &mut files.file {
        file.service
            .retain(|service| SERVICES.contains(&service.name()));
    }
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .generate_default_stubs(true)
        .extern_path(".authpb", "::etcd::proto::authpb")
        .extern_path(".etcdserverpb", "::etcd::proto::etcdserverpb")
        .extern_path(".mvccpb", "::etcd::proto::mvccpb")
        .extern_path(".v3electionpb", "::etcd::proto::v3electionpb")
        .extern_path(".v3lockpb", "::etcd::proto::v3lockpb")
        .compile_fds(files)
}
