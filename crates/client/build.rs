//! Generates the client's stubs (and, for the tests alone, a server's) over the messages of
//! `etcd`, without `protoc`.

use std::io::Error;
use std::path::PathBuf;

fn main() -> Result<(), Error> {
    let variable = |name| std::env::var_os(name).ok_or(Error::other(name));
    let proto = PathBuf::from(variable("DEP_QUORATE_ETCD_PROTO")?);
    println!("cargo::rerun-if-changed={}", proto.display());

    let files = protox::compile(["etcdserverpb/rpc.proto"], [&proto]).map_err(Error::other)?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for (folder, is_client) in [("client", true), ("server", false)] {
        let out = out.join(folder);
        std::fs::create_dir_all(&out)?;
        tonic_prost_build::configure()
            .build_client(is_client)
            .build_server(!is_client)
            .out_dir(out)
            .extern_path(".etcdserverpb", "::etcd::proto::etcdserverpb")
            .extern_path(".mvccpb", "::etcd::proto::mvccpb")
            .extern_path(".authpb", "::etcd::proto::authpb")
            .compile_fds(files.clone())?;
    }
    Ok(())
}
