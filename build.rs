//! Compiles the protobuf interfaces with protox, a compiler in Rust: building needs no protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const ROOT: &str = "proto";
const FILES: [&str; 2] = [
    "resnetd/v1/classifier.proto",
    "inference/grpc_service.proto",
];

/// Messages of package `inference` that HTTP shows as JSON under the same names.
const SHOWN: [&str; 15] = [
    "ServerMetadataResponse",
    "ModelMetadataResponse",
    "ModelStatisticsResponse",
    "ModelStatistics",
    "InferStatistics",
    "InferBatchStatistics",
    "StatisticDuration",
    "RepositoryIndexResponse",
    "ModelConfig",
    "ModelVersionPolicy",
    "ModelInput",
    "ModelOutput",
    "ModelInstanceGroup",
    "ModelDynamicBatching",
    "ModelParameter",
];
/// Fields of these that are enumerations, which JSON shows by name.
const NAMED: [(&str, &str); 4] = [
    ("ModelInput.data_type", "data_type"),
    ("ModelInput.format", "format"),
    ("ModelOutput.data_type", "data_type"),
    ("ModelInstanceGroup.kind", "kind"),
];

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

    let mut generator = tonic_prost_build::configure()
        .bytes(".resnetd.v1.ClassifyRequest.images")
        .bytes(".inference.ModelInferRequest.raw_input_contents")
        .bytes(".inference.InferTensorContents.bytes_contents")
        .bytes(".inference.ModelInferResponse.raw_output_contents")
        .btree_map(".inference.ModelConfig.parameters")
        .codec_path("crate::server::codec::BoundedCodec");
    for message in SHOWN {
        generator = generator.type_attribute(
            format!(".inference.{message}"),
            "#[derive(serde::Serialize)]",
        );
    }
    for (field, name) in NAMED {
        let by_name = format!("#[serde(serialize_with = \"crate::server::pb::names::{name}\")]");
        generator = generator.field_attribute(format!(".inference.{field}"), by_name);
    }
    generator.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
