//! Compiles the protobuf interface with protox, a compiler in Rust: building needs no protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const ROOT: &str = "proto";
const FILES: [&str; 1] = ["resnetd/v1/classifier.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    // what server reflection hands out
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(
        out.join("resnetd_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        .bytes(".resnetd.v1.ClassifyRequest.images")
        .codec_path("crate::server::codec::BoundedCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
