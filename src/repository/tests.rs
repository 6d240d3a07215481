use std::fs;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::*;
use crate::imaging::Interpolation;
use crate::ir::Shape;
use crate::weights::{Generator, WeightSource};

/// A model folder with the given model.toml, weights of resnet20 and, if given, labels.
fn folder(manifest: &str, classes: usize, labels: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.toml"), manifest).unwrap();
    fs::write(folder.path().join("w.safetensors"), weights(classes)).unwrap();
    if let Some(labels) = labels {
        fs::write(folder.path().join("labels.txt"), labels).unwrap();
    }
    folder
}

/// Generated weights of resnet20.
pub(super) fn weights(classes: usize) -> Vec<u8> {
    let architecture = assemble::architecture("resnet20").unwrap();
    let graph = (architecture.build)(Shape::new(3, 32, 32), classes).unwrap();
    let generator = Generator::new(&graph, 1, [0.5, 1.0]);
    let tensors: Vec<_> = generator
        .shapes()
        .iter()
        .map(|(name, shape)| {
            let values = generator.read(name).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (name.clone(), shape.clone(), bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    serialize(views, None).unwrap()
}

fn load_folder(path: &Path) -> Result<LoadedModel, RepositoryError> {
    let spec = ModelSpec {
        name: "net".to_owned(),
        version: None,
        source: Source::Folder(path.to_owned()),
    };
    load(&spec, &Config::default())
}

fn refusal(manifest: &str, labels: Option<&str>) -> String {
    load_folder(folder(manifest, 10, labels).path())
        .unwrap_err()
        .to_string()
}

pub(super) const MINIMAL: &str = "architecture = 'resnet20'\nweights = 'w.safetensors'\n";

#[test]
fn specs_are_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let hub = |revision: Option<&str>| Source::Hub {
        repo: "timm/resnet50.a1_in1k".to_owned(),
        revision: revision.map(str::to_owned),
    };
    for (text, name, source) in [
        (
            "resnet50=a/b=c.pth",
            "resnet50",
            Source::File("a/b=c.pth".into()),
        ),
        (
            &format!("cats-2.1={path}"),
            "cats-2.1",
            Source::Folder(path.clone().into()),
        ),
        ("a=hf:timm/resnet50.a1_in1k", "a", hub(None)),
        (
            "a=hf:timm/resnet50.a1_in1k@refs/pr/1",
            "a",
            hub(Some("refs/pr/1")),
        ),
    ] {
        let spec: ModelSpec = text.parse().unwrap();
        assert_eq!(
            (spec.name.as_str(), &spec.source),
            (name, &source),
            "{text}"
        );
        assert_eq!(format!("{}={}", spec.name, spec.source), text);
    }
}

#[test]
fn bad_specs_say_what_was_expected() {
    let long = format!("{}=x", "n".repeat(65));
    for (text, reason) in [
        ("", "NAME=SOURCE"),
        ("resnet50", "NAME=SOURCE"),
        ("resnet50=", "NAME=SOURCE"),
        ("=x", "1 to 64"),
        ("a b=x", "1 to 64"),
        ("..=x", "does not begin with a dot"),
        ("ä=x", "1 to 64"),
        (&long, "1 to 64"),
        ("a=hf:", "hf:OWNER/NAME"),
        ("a=hf:a/b/c", "hf:OWNER/NAME"),
        ("a=hf:../b", "hf:OWNER/NAME"),
        ("a=hf:a/b@", "hf:OWNER/NAME"),
        ("a=hf:a/b@../../x", "hf:OWNER/NAME"),
        ("a=hf:a/b?x", "hf:OWNER/NAME"),
    ] {
        let error = text.parse::<ModelSpec>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn the_embedded_model_loads() {
    let model = load(&ModelSpec::embedded(), &Config::default()).unwrap();
    assert_eq!(model.name, "resnet20-cifar10");
    assert_eq!(
        (model.architecture.name, model.graph.input().height),
        ("resnet20", 32)
    );
    assert_eq!(
        model.labels,
        labels::default(10, 10),
        "CIFAR-10's order is the alphabet's"
    );
    assert!(model.provenance.test_top1.is_some() && model.provenance.data.is_some());
    let mut engine = model.engines.into_iter().next().unwrap();
    let mut logits = [f32::NAN; 10];
    engine.forward(1, &[0.0; 3 * 32 * 32], &mut logits).unwrap();
    assert!(logits.iter().all(|v| v.is_finite()));
}

#[test]
fn a_folder_needs_no_more_than_architecture_and_weights() {
    let folder = folder(MINIMAL, 10, None);
    let model = load_folder(folder.path()).unwrap();
    assert_eq!((model.name.as_str(), model.version.as_str()), ("net", "1"));
    assert_eq!(model.labels[..2], ["airplane", "automobile"]);
    assert_eq!(
        (model.preprocessing.resize, model.preprocessing.crop),
        (32, 32)
    );
    assert_eq!(model.provenance, Provenance::default());
    assert!(format!("{model:?}").contains("resnet20"));
}

#[test]
fn a_folder_may_say_everything() {
    let manifest = format!(
        "{MINIMAL}labels = 'labels.txt'\nversion = '2024-05'\n\
         [preprocess]\nresize = 72\ncrop = 64\ninterpolation = 'lanczos'\nmean = [0, 0.5, 1]\nstd = [1, 2, 3]\n\
         [provenance]\ndata = 'd'\nrecipe = 'r'\nepochs = 3\nseed = 4\ntrain_top1 = 99\ntest_top1 = 91.5\ntest_top5 = 99.5\n"
    );
    let folder = folder(&manifest, 3, Some("\u{feff}cat\r\ndog \r\nowl\r\n\r\n"));
    let model = load_folder(folder.path()).unwrap();
    assert_eq!(model.labels, ["cat", "dog", "owl"]);
    assert_eq!(model.version, "2024-05");
    assert_eq!((model.graph.input().height, model.graph.classes()), (64, 3));
    assert_eq!(model.preprocessing.interpolation, Interpolation::Lanczos);
    assert_eq!(model.preprocessing.mean, [0.0, 0.5, 1.0]);
    assert_eq!(model.provenance.epochs, Some(3));
    assert_eq!(model.provenance.train_top1, Some(99.0));
}

#[test]
fn classes_come_from_the_weights() {
    let model = load_folder(folder(MINIMAL, 37, None).path()).unwrap();
    assert_eq!(model.graph.classes(), 37);
    assert_eq!(model.labels[36], "class_36");
}

#[test]
fn default_labels_are_a_data_set_s_only_for_its_networks() {
    assert_eq!(labels::default(1000, 1000)[..2], ["tench", "goldfish"]);
    assert_eq!(labels::default(1000, 1000)[999], "toilet tissue");
    assert_eq!(labels::default(1000, 10)[0], "class_0");
    assert_eq!(labels::default(10, 1000)[9], "class_9");
}

#[test]
fn a_broken_folder_says_what_is_wrong() {
    let preprocess = |line: &str| format!("{MINIMAL}[preprocess]\n{line}\n");
    for (manifest, reason) in [
        (
            "weights = 'w.safetensors'".to_owned(),
            "missing field `architecture`",
        ),
        (format!("{MINIMAL}wieghts = 'x'"), "unknown field `wieghts`"),
        (format!("{MINIMAL}version = 1"), "expected a string"),
        (
            format!("{MINIMAL}version = 'a b'"),
            "version has characters",
        ),
        (
            MINIMAL.replace("resnet20", "resnet21"),
            "unknown architecture \"resnet21\"; the nearest are resnet20",
        ),
        (
            MINIMAL.replace("w.safe", "x.safe"),
            "x.safetensors cannot be read",
        ),
        (
            MINIMAL.replace("w.safe", "../w.safe"),
            "inside the model folder",
        ),
        (
            MINIMAL.replace("w.safe", "/w.safe"),
            "inside the model folder",
        ),
        (
            MINIMAL.replace("w.safetensors", ""),
            "inside the model folder",
        ),
        (
            MINIMAL.replace("w.safetensors", "model.toml"),
            "neither a safetensors file nor",
        ),
        (
            MINIMAL.replace("resnet20", "resnet32"),
            "60 missing (layer1.3.bn1.bias, ",
        ),
        (
            format!("{MINIMAL}labels = 'labels.txt'"),
            "2 labels for 10 classes",
        ),
        (
            format!("{MINIMAL}labels = 'none.txt'"),
            "none.txt: cannot be read",
        ),
        (
            format!("{MINIMAL}labels = 'w.safetensors'"),
            "w.safetensors: cannot be read",
        ),
        (preprocess("crop = 32"), "belong together"),
        (preprocess("resize = 0\ncrop = 0"), "resize is 0"),
        (
            preprocess("resize = 4000000000\ncrop = 4000000000"),
            "between 1 and 4096",
        ),
        (preprocess("std = [1, 0, 1]"), "std is"),
        (preprocess("mean = [nan, 0, 1]"), "mean"),
        (preprocess("mean = [0, 1]"), "length"),
        (
            preprocess("interpolation = 'area'"),
            "expected one of `nearest`, `bilinear`",
        ),
        (
            format!("{MINIMAL}[provenance]\naccuracy = 1"),
            "unknown field `accuracy`",
        ),
    ] {
        let text = refusal(&manifest, Some("a\nb\n"));
        assert!(text.contains(reason), "{manifest}: {text}");
    }
    let text = refusal(&format!("{MINIMAL}labels = 'labels.txt'"), Some("a\n\nb\n"));
    assert!(text.contains("line 2 is empty"), "{text}");
}

#[test]
fn an_image_too_small_for_the_network_is_refused() {
    let architecture = assemble::architecture("resnet50").unwrap();
    let graph = architecture.default_graph().unwrap();
    let description = assemble::Description {
        architecture,
        build: architecture.build,
        version: "1".to_owned(),
        weights: Box::new(Generator::new(&graph, 1, [0.5, 1.0])),
        labels: None,
        preprocessing: Preprocessing {
            crop: 4097,
            resize: 4097,
            ..assemble::default_preprocessing(architecture)
        },
        provenance: Provenance::default(),
        preset: None,
    };
    let error = assemble::assemble("net", description, &EngineOptions::default()).unwrap_err();
    assert!(error.to_string().contains("between 1 and 4096"), "{error}");
}

#[test]
fn defaults_follow_the_architecture() {
    let of = |name| assemble::default_preprocessing(assemble::architecture(name).unwrap());
    let imagenet = of("resnet50");
    assert_eq!((imagenet.resize, imagenet.crop), (256, 224));
    assert_eq!(imagenet.mean, [0.485, 0.456, 0.406]);
    let cifar = of("wrn28_10");
    assert_eq!((cifar.resize, cifar.crop), (32, 32));
    assert_eq!(cifar.mean, [0.4914, 0.4822, 0.4465]);
    assert_eq!(assemble::resize_for(224, 0.95), 235);
}

#[test]
fn a_weight_file_is_served_under_its_architecture_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("any.bin");
    fs::write(&path, weights(10)).unwrap();
    let load = |name: &str| {
        let spec: ModelSpec = format!("{name}={}", path.display()).parse().unwrap();
        load(&spec, &Config::default())
    };
    let model = load("resnet20").unwrap();
    assert_eq!((model.name.as_str(), model.labels.len()), ("resnet20", 10));
    let error = load("resnet-20").unwrap_err();
    assert!(
        matches!(&error, RepositoryError::Architecture { near, .. } if near.contains(&"resnet20")),
        "{error}"
    );
}

#[test]
fn a_model_directory_is_scanned() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b", "a", ".hidden", "no good"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("file"), "").unwrap();
    fs::write(dir.path().join("a/model.toml"), MINIMAL).unwrap();
    fs::write(dir.path().join("a/w.safetensors"), weights(10)).unwrap();
    let specs = scan(dir.path()).unwrap();
    let names: Vec<_> = specs.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "no good"]);
    let loaded: Vec<_> = specs.iter().map(|s| load(s, &Config::default())).collect();
    assert!(loaded[0].is_ok());
    let text = loaded[1].as_ref().unwrap_err().to_string();
    assert!(text.contains("model.toml: cannot be read"), "{text}");
    let text = loaded[2].as_ref().unwrap_err().to_string();
    assert!(text.contains("cannot be a model's name"), "{text}");
    assert!(scan(&dir.path().join("file")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_model_toml_is_a_description_or_an_error(
        resize in any::<u32>(), crop in any::<u32>(), mean in any::<f32>(), text in "\\PC{0,40}",
        cut in any::<prop::sample::Index>(),
    ) {
        let manifest = format!(
            "{MINIMAL}version = {text:?}\n[preprocess]\nresize = {resize}\ncrop = {crop}\nmean = [{mean:?}, 0, 0]\n"
        );
        let chars: Vec<char> = manifest.chars().collect();
        let cut: String = chars[..cut.index(chars.len())].iter().collect();
        for manifest in [manifest, cut, text] {
            if let Ok(manifest) = folder::Manifest::parse(&manifest) {
                let source = Generator::new(&assemble::architecture("resnet20").unwrap().default_graph().unwrap(), 1, [0.5, 1.0]);
                let described = manifest.describe(Box::new(source), None, RepositoryError::Misfit);
                if let Ok(described) = described {
                    prop_assert!(described.preprocessing.validate().is_ok());
                }
            }
        }
    }
}
