//! Compiles the protobuf interfaces with protox, a compiler in Rust: building needs no protoc; and, for the feature
//! `cudnn` alone, the CUDA kernels with the toolkit's nvcc.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
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

const KERNELS: &str = "src/engine/cuda/device/kernels.cu";
/// Machine code for Hopper, and PTX that drivers compile for every card from Ampere on.
const ARCHITECTURES: [&str; 2] = [
    "arch=compute_80,code=compute_80",
    "arch=compute_90,code=sm_90",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    compile_protobuf(&out)?;
    if env::var_os("CARGO_FEATURE_CUDNN").is_some() {
        compile_kernels(&out)?;
    }
    Ok(())
}

/// Compiles the kernels to `kernels.fatbin`.
fn compile_kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={KERNELS}");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = nvcc();
    let mut command = Command::new(&nvcc);
    // products and sums are rounded one by one, as written: the host check computes the same
    command.args(["-std=c++17", "-O3", "-fmad=false", "-fatbin"]);
    for architecture in ARCHITECTURES {
        command.args(["-gencode", architecture]);
    }
    command
        .arg("-o")
        .arg(out.join("kernels.fatbin"))
        .arg(KERNELS);
    let output = command.output().map_err(|e| {
        let nvcc = nvcc.display();
        format!("cannot run {nvcc}: {e}; the feature cudnn needs the CUDA toolkit: set CUDA_HOME or put nvcc on the PATH")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}):\n{said}", output.status).into());
    }
    Ok(())
}

/// The compiler that candle's kernels are compiled with: `NVCC`, the PATH's, or that of the toolkit's folder.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC").filter(|nvcc| Path::new(nvcc).exists()) {
        return nvcc.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    let homes = homes
        .map(PathBuf::from)
        .chain([PathBuf::from("/usr/local/cuda")]);
    let mut candidates = on_path.chain(homes.map(|home| home.join("bin/nvcc")));
    let found = candidates.find(|nvcc| nvcc.exists());
    found.unwrap_or_else(|| PathBuf::from("nvcc"))
}

fn compile_protobuf(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    // what server reflection hands out
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
