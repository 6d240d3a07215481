//! Weight files with generated values.

use std::io::{Cursor, Write};
use std::path::Path;

use resnetd::families;
use resnetd::weights::{Generator, WeightSource};
use safetensors::tensor::{Dtype, TensorView, serialize};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const SEED: u64 = 7;

/// Name, shape and little-endian values.
type Tensor = (String, Vec<usize>, Vec<u8>);

pub fn generator(architecture: &str) -> Generator {
    let graph = families::find(architecture)
        .unwrap()
        .default_graph()
        .unwrap();
    Generator::new(&graph, SEED, [0.5, 0.9])
}

/// The generated weights of an architecture as safetensors.
pub fn safetensors(architecture: &str) -> Vec<u8> {
    let tensors = tensors(architecture);
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    serialize(views, None).unwrap()
}

/// The same as torch.save writes a state dict.
pub fn pth(architecture: &str) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| {
        let stored =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive
            .start_file(format!("archive/{name}"), stored)
            .unwrap();
        archive.write_all(bytes).unwrap();
    };
    let tensors = tensors(architecture);
    add("data.pkl", &pickle(&tensors));
    add("byteorder", b"little");
    for (key, (_, _, bytes)) in tensors.iter().enumerate() {
        add(&format!("data/{key}"), bytes);
    }
    archive.finish().unwrap().into_inner()
}

/// A model folder for an architecture with its weights in `file`.
pub fn folder(path: &Path, architecture: &str, file: &str) {
    let bytes = match Path::new(file).extension().unwrap().to_str() {
        Some("pth") => pth(architecture),
        _ => safetensors(architecture),
    };
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join(file), bytes).unwrap();
    let manifest = format!("architecture = \"{architecture}\"\nweights = \"{file}\"\n");
    std::fs::write(path.join("model.toml"), manifest).unwrap();
}

fn tensors(architecture: &str) -> Vec<Tensor> {
    let generator = generator(architecture);
    let shapes = generator.shapes().iter();
    let tensor = |(name, shape): (&String, &Vec<usize>)| {
        let values = generator.read(name).unwrap();
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        (name.clone(), shape.clone(), bytes)
    };
    shapes.map(tensor).collect()
}

/// The program for Python's unpickler that makes an ordinary dict of tensors, each in a storage of its own.
fn pickle(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (key, (name, shape, bytes)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, bytes.len() / 4);
        out.extend(b"tQK\0");
        let stride = |axis: usize| shape[axis + 1..].iter().product();
        let strides: Vec<usize> = (0..shape.len()).map(stride).collect();
        for numbers in [shape, &strides] {
            out.push(b'(');
            numbers.iter().for_each(|&number| int(&mut out, number));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend(i32::try_from(number).unwrap().to_le_bytes());
}
