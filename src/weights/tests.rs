use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::ir::{Builder, Graph, Shape};

/// The net of tests/data/weights/make.py.
fn net(classes: usize) -> Graph {
    let (mut b, x) = Builder::new(Shape::new(3, 8, 8));
    let x = b.conv("conv1", x, 4, 3, 1);
    let x = b.batch_norm("bn1", x);
    let x = b.relu(x);
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, classes);
    b.finish().unwrap()
}

fn data(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/weights")
        .join(file)
}

fn refusal(file: &str) -> String {
    open(&data(file)).err().expect("refused").to_string()
}

/// A file of the given content.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn every_form_holds_the_same_values() {
    let files = [
        "plain.safetensors",
        "prefixed.safetensors",
        "f16.safetensors",
        "bf16.safetensors",
        "f64.safetensors",
        "plain.pth",
        "nested.pth",
        "module.pth",
        "lightning.pth",
        "parameters.pth",
        "f16.pth",
        "bf16.pth",
        "f64.pth",
        "channels_last.pth",
        "strided.pth",
    ];
    let graph = net(5);
    for file in files {
        let source = open(&data(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let parameters =
            Parameters::load(&graph, &*source).unwrap_or_else(|e| panic!("{file}: {e}"));
        for parameter in graph.parameters() {
            let count: usize = parameter.shape.iter().product();
            let expected: Vec<f32> = (0..count)
                .map(|i| ((7 * i + parameter.name.len()) % 61) as f32 / 8.0 - 3.75)
                .collect();
            let found = parameters.values(&parameter.name).unwrap();
            assert_eq!(found, expected, "{file}: {}", parameter.name);
        }
    }
}

#[test]
fn embedded_bytes_are_read_like_a_file() {
    let bytes = include_bytes!("../../tests/data/weights/plain.safetensors");
    let source = embedded(bytes).unwrap();
    let opened = open(&data("plain.safetensors")).unwrap();
    assert_eq!(source.shapes(), opened.shapes());
    assert_eq!(
        source.shapes().len(),
        7,
        "the integer step counter is left out"
    );
    assert_eq!(
        source.read("fc.bias").unwrap(),
        opened.read("fc.bias").unwrap()
    );
    assert!(matches!(source.read("fc"), Err(WeightsError::UnknownTensor(name)) if name == "fc"));
    assert!(embedded(b"").is_err());
}

#[test]
fn old_forms_are_refused_with_the_line_that_converts_them() {
    let text = refusal("legacy.pth");
    let path = data("legacy.pth");
    assert!(text.contains("before 1.6"), "{text}");
    let line = format!(
        "python -c \"import torch; torch.save(torch.load('{}', map_location='cpu', weights_only=True), 'new.pth')\"",
        path.display()
    );
    assert!(text.contains(&line), "{text}");

    let mut tar = vec![0; 1024];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    let tar = file(&tar);
    let text = open(tar.path()).err().unwrap().to_string();
    assert!(
        text.contains("old tar form") && text.contains("weights_only=False"),
        "{text}"
    );
}

#[test]
fn python_objects_are_refused_by_name() {
    let text = refusal("function.pth");
    assert!(
        text.contains("posix.system") && text.contains("torch.save(model.state_dict()"),
        "{text}"
    );
    let text = refusal("module_object.pth");
    assert!(text.contains("torch.nn.modules.module.Module"), "{text}");
}

#[test]
fn what_is_no_weight_file_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let text = open(folder.path()).err().unwrap().to_string();
    assert!(text.contains("not a file"), "{text}");
    let text = open(&folder.path().join("gone.pth"))
        .err()
        .unwrap()
        .to_string();
    assert!(text.contains("gone.pth cannot be read"), "{text}");
    for (bytes, reason) in [
        (&b""[..], "it is empty"),
        (b"hello, this is text", "neither a safetensors file nor"),
        (b"PK\x03\x04 and no more", "not a whole zip archive"),
        (
            b"\xff\x00\x00\x00\x00\x00\x00\x00{}",
            "not a whole safetensors file",
        ),
    ] {
        let file = file(bytes);
        let text = open(file.path()).err().unwrap().to_string();
        assert!(text.contains(reason), "{text}");
        assert!(text.contains(&file.path().display().to_string()), "{text}");
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    for name in ["plain.safetensors", "plain.pth"] {
        let whole = std::fs::read(data(name)).unwrap();
        for len in (0..whole.len()).step_by(97) {
            let cut = file(&whole[..len]);
            assert!(open(cut.path()).is_err(), "{name} cut to {len} bytes");
        }
    }
}

/// A copy of a PyTorch file, compressed, with each entry's content passed through `edit` (`None` leaves it out).
fn rezipped(name: &str, edit: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(File::open(data(name)).unwrap()).unwrap();
    let mut copy = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.name().unwrap().into_owned();
        if let Some(content) = edit(&name, content) {
            copy.start_file(name, zip::write::SimpleFileOptions::default())
                .unwrap();
            std::io::Write::write_all(&mut copy, &content).unwrap();
        }
    }
    copy.finish().unwrap().into_inner()
}

/// What opening and reading `fc.weight` of a file gives.
fn classifier(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let source = open(file(bytes).path()).map_err(|e| e.to_string())?;
    source.read("fc.weight").map_err(|e| e.to_string())
}

#[test]
fn archives_are_read_and_refused_by_their_entries() {
    let whole = classifier(&rezipped("plain.pth", |_, content| Some(content))).unwrap();
    assert_eq!(whole.len(), 20);
    // files from before 2.1 do not state their byte order
    let older = rezipped("plain.pth", |name, content| {
        (!name.ends_with("byteorder")).then_some(content)
    });
    assert_eq!(classifier(&older).unwrap(), whole);
    let replaced = |end: &'static str, content: &'static [u8]| {
        rezipped("plain.pth", move |name, old| {
            Some(if name.ends_with(end) {
                content.to_vec()
            } else {
                old
            })
        })
    };
    for (bytes, reason) in [
        (replaced("byteorder", b"big"), "big-endian"),
        (replaced("data/6", b"short"), "has 5 bytes, expected 80"),
        (replaced("data.pkl", b""), "ends early"),
        (replaced("data.pkl", b"\x80\x02}q\x00."), "holds no tensors"),
        (replaced("data.pkl", b"\x80\x02K\x01."), "no state dict"),
        (replaced("data.pkl", b"\x80\x04}."), "protocol 4"),
        (replaced("data.pkl", b"cos\nsystem\n."), "os.system"),
        (
            rezipped("plain.pth", |name, old| {
                (!name.ends_with("data.pkl")).then_some(old)
            }),
            "without data.pkl",
        ),
        (
            rezipped("plain.pth", |name, old| {
                (!name.ends_with("data/6")).then_some(old)
            }),
            "data/6 cannot be read",
        ),
    ] {
        let text = classifier(&bytes).unwrap_err();
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn a_tensor_larger_than_its_storage_is_refused() {
    let text = refusal("expanded.pth");
    assert!(
        text.contains("\"fc.weight\" does not fit into its storage"),
        "{text}"
    );
}

#[test]
fn neither_depth_nor_sharing_in_a_pickle_exhausts_anything() {
    let mut deep = b")".to_vec();
    deep.resize(1_000_000, 0x85);
    deep.push(b'.');
    assert!(pickle::state_dict(&deep).is_err());
    // each pair holds the one before it twice: 2^20000 values if they were copied
    let mut wide = b")q\0".to_vec();
    for _ in 0..20_000 {
        wide.extend(b"h\0h\0\x86q\0");
    }
    wide.push(b'.');
    assert!(pickle::state_dict(&wide).is_err());
    // a text too long for a name, as which it would be copied for every tensor
    let mut long = b"}X\xff\xff\0\0".to_vec();
    long.resize(long.len() + 0xffff, b'n');
    long.extend(b"K\x01s.");
    assert!(
        pickle::state_dict(&long)
            .unwrap_err()
            .contains("holds no tensors")
    );
    // a dict that holds itself under the key that is followed
    let cycle = b"}q\0X\x05\0\0\0modelh\0s.";
    assert!(pickle::state_dict(cycle).is_err());
}

#[test]
fn a_misfit_lists_every_difference() {
    let source = open(&data("plain.pth")).unwrap();
    let (mut b, x) = Builder::new(Shape::new(3, 8, 8));
    let x = b.conv("conv1", x, 4, 3, 1);
    let x = b.batch_norm("norm", x);
    let x = b.global_avg_pool(x);
    let x = b.flatten(x);
    b.linear("fc", x, 7);
    let error = Parameters::load(&b.finish().unwrap(), &*source).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, WeightsError::Mismatch(m) if m.missing.len() == 4 && m.unexpected.len() == 4)
    );
    for part in [
        "4 missing (norm.bias, norm.running_mean, norm.running_var, norm.weight)",
        "4 unexpected (bn1.bias, ",
        "2 mis-shaped (fc.bias is [5], expected [7], fc.weight is [5, 4], expected [7, 4])",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_long_misfit_stays_short() {
    let source = open(&data("plain.pth")).unwrap();
    let (mut b, mut x) = Builder::new(Shape::new(3, 8, 8));
    for i in 0..500 {
        x = b.conv(&format!("layer{i}"), x, 3, 3, 1);
    }
    let text = Parameters::load(&b.finish().unwrap(), &*source)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("500 missing (layer0.weight, ") && text.contains(", ...)"),
        "{text}"
    );
    assert!(text.len() < 600, "{text}");
}

#[test]
fn training_only_tensors_are_skipped() {
    let source = open(&data("plain.pth")).unwrap();
    let build = |prefixes: &[&'static str]| {
        let (mut b, x) = Builder::new(Shape::new(3, 8, 8));
        b.training_only(prefixes);
        b.conv("conv1", x, 4, 3, 1);
        b.finish().unwrap()
    };
    assert!(Parameters::load(&build(&["bn1."]), &*source).is_err());
    let mut parameters = Parameters::load(&build(&["bn1.", "fc."]), &*source).unwrap();
    assert_eq!(parameters.values("bn1.weight"), None);
    assert_eq!(parameters.take("conv1.weight").map(|v| v.len()), Some(108));
    assert_eq!(parameters.take("conv1.weight"), None);
}

/// Against the reference implementation in NumPy, by their bits: first, second and last value.
#[test]
fn the_generator_gives_the_reference_values() {
    let graph = net(5);
    let generator = Generator::new(&graph, 7, [0.5, 1.5]);
    for (name, expected) in [
        ("conv1.weight", [0x3e80_39c3, 0xbee2_45ff, 0xbe81_c5d0]),
        ("bn1.weight", [0x3fb3_fca8, 0x3faf_962c, 0x3f95_2ce4]),
        ("bn1.bias", [0x3da3_ff40, 0xbdcb_1148, 0xbd81_b1ad]),
        ("bn1.running_mean", [0x3d95_7898, 0x3d86_b96a, 0x3d9f_7d36]),
        ("bn1.running_var", [0x3f96_5ad7, 0x3f90_d187, 0x3f52_d9ae]),
        ("fc.weight", [0x3f8f_ff38, 0xbf9c_18b9, 0x3d33_4a8a]),
        ("fc.bias", [0xbdab_e286, 0xbd40_c7a6, 0xbdb7_1075]),
    ] {
        assert_eq!(ends(&generator.read(name).unwrap()), expected, "{name}");
    }
    let input = Generator::input(7, 2, Shape::new(3, 4, 4));
    assert_eq!(input.len(), 96);
    assert_eq!(ends(&input), [0xbfb4_7db0, 0xbfa2_e314, 0x3f5b_fcbc]);
    Parameters::load(&graph, &generator).unwrap();
}

fn ends(values: &[f32]) -> [u32; 3] {
    [values[0], values[1], values[values.len() - 1]].map(f32::to_bits)
}

/// Opens and reads everything; whatever the outcome, it must be one.
fn exhaust(bytes: &[u8]) {
    if let Ok(source) = open(file(bytes).path()) {
        for name in source.shapes().keys() {
            let _ = source.read(name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn corruption_never_panics(
        which in 0usize..4,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let name = ["plain.safetensors", "nested.pth", "strided.pth", "legacy.pth"][which];
        let mut bytes = std::fs::read(data(name)).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exhaust(&bytes);
    }

    /// Past the archive's checksums: the pickle itself is corrupt.
    #[test]
    fn corrupt_pickles_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let corrupt = |name: &str, mut content: Vec<u8>| {
            if name.ends_with("data.pkl") {
                for (at, value) in &edits {
                    let at = at.index(content.len());
                    content[at] = *value;
                }
            }
            Some(content)
        };
        exhaust(&rezipped("nested.pth", corrupt));
        exhaust(&rezipped("strided.pth", corrupt));
    }

    #[test]
    fn any_pickle_ends(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = pickle::state_dict(&bytes);
    }
}
