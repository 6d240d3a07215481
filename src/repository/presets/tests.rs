use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};

use super::super::{Config, LoadedModel, ModelSpec, load};
use super::*;
use crate::families::Build;
use crate::imaging::RgbImage;
use crate::ir::Shape;
use crate::weights::{Generator, WeightSource};

fn preset(source: &str) -> &'static Preset {
    let preset = Preset::all().iter().find(|p| p.source == source);
    preset.unwrap_or_else(|| panic!("{source}"))
}

fn named(name: &str) -> &'static Architecture {
    families::find(name).unwrap()
}

#[test]
fn the_table_is_that_of_the_references() {
    let table: Table = toml::from_str(TABLE).unwrap();
    // of timm's 87 the one without a classifier, resnet50.bamboo, cannot be served
    assert_eq!(table.weights.torchvision.len(), 28);
    assert_eq!(table.weights.timm.len(), 86);
    let presets = Preset::all();
    assert_eq!(presets.len(), 28 + 86, "every row has its architecture");
    let sources: BTreeSet<_> = presets.iter().map(|preset| &preset.source).collect();
    assert_eq!(sources.len(), presets.len());
    for preset in presets {
        let Preset { top1, top5, .. } = *preset;
        assert!((50.0..90.0).contains(&top1), "{preset:?}");
        assert!((top1..100.0).contains(&top5), "{preset:?}");
        preset.preprocessing.validate().unwrap();
        assert_eq!(preset.architecture.classes, 1000, "{preset:?}");
        let crop = preset.preprocessing.crop as usize;
        let graph = (preset.architecture.build)(Shape::new(3, crop, crop), 1000);
        graph.unwrap_or_else(|e| panic!("{preset:?}: {e}"));
        let name = preset.architecture.name;
        match preset.source.strip_prefix("hf:timm/") {
            Some(repo) => assert_eq!(repo, format!("{name}.{}", preset.weights)),
            None => {
                assert!(preset.source.starts_with(name) && preset.source.ends_with(".pth"));
                assert!(preset.weights.starts_with("IMAGENET1K_V"));
            }
        }
        assert_eq!(preset.publisher() == "timm", preset.source.contains('/'));
    }
}

#[test]
fn published_figures_stand_beside_their_settings() {
    let v2 = preset("resnet50-11ad3fa6.pth");
    assert_eq!((v2.top1, v2.top5), (80.858, 95.434));
    assert_eq!(v2.weights, "IMAGENET1K_V2");
    let expected = Preprocessing {
        resize: 232,
        ..Preprocessing::imagenet()
    };
    assert_eq!(v2.preprocessing, expected);

    let timm = preset("hf:timm/inception_resnet_v2.tf_in1k");
    assert_eq!((timm.top1, timm.top5), (80.434, 95.312));
    let expected = Preprocessing {
        resize: 333,
        crop: 299,
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    assert_eq!(timm.preprocessing, expected);

    assert_eq!(Preset::of(named("resnet50")).count(), 2 + 18);
    assert_eq!(Preset::of(named("resnet20")).count(), 0);
}

#[test]
fn presets_are_found_by_file_and_repository() {
    let of_file = |path: &str| Preset::of_file(Path::new(path)).map(|p| p.top1);
    assert_eq!(of_file("/some/where/resnet18-f37072fd.pth"), Some(69.758));
    assert_eq!(of_file("resnet18-f37072fd.pth"), Some(69.758));
    assert_eq!(of_file("resnet18-f37072fe.pth"), None);
    assert_eq!(of_file("resnet18-f37072fd.pth/other"), None);
    assert_eq!(of_file("timm/resnet18.tv_in1k"), None);
    let of_hub = |repo: &str| Preset::of_hub(repo).map(|p| p.top1);
    assert_eq!(of_hub("timm/resnet18.tv_in1k"), Some(69.752));
    assert_eq!(of_hub("resnet18-f37072fd.pth"), None);
    assert_eq!(of_hub("other/resnet18.tv_in1k"), None);
}

/// torchvision's `_transform_input` on one channel of an image that was normalised with ImageNet's values.
fn transform_input(x: f32, channel: usize) -> f32 {
    let Preprocessing { mean, std, .. } = Preprocessing::imagenet();
    x * (std[channel] / 0.5) + (mean[channel] - 0.5) / 0.5
}

#[test]
fn the_transformed_input_of_torchvision_s_inceptions_is_in_their_preprocessing() {
    let side = 48;
    // every level in every channel
    let pixels: Vec<u8> = (0..3 * side * side)
        .map(|i| (i / 3 + 85 * (i % 3)) as u8)
        .collect();
    let (width, height) = (side as u32, side as u32);
    let image = RgbImage {
        width,
        height,
        pixels,
    };
    for source in ["googlenet-1378be20.pth", "inception_v3_google-0cc3c7bd.pth"] {
        let preset = preset(source);
        let at = |settings: Preprocessing| Preprocessing {
            resize: width,
            crop: width,
            ..settings
        };
        let found = at(preset.preprocessing.clone()).apply(&image).unwrap();
        let outside = at(Preprocessing::imagenet()).apply(&image).unwrap();
        for (i, (found, x)) in found.iter().zip(outside).enumerate() {
            let expected = transform_input(x, i / (side * side));
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert!(found.contains(&1.0) && found.contains(&-1.0));
    }
    // timm has the same weights, and says so itself
    let timm = preset("hf:timm/inception_v3.tv_in1k");
    assert_eq!(timm.preprocessing.mean, [0.5; 3]);
}

/// Generated weights of an architecture.
fn weights(architecture: &str, classes: usize) -> Vec<u8> {
    let architecture = named(architecture);
    let side = architecture.input_size;
    let graph = (architecture.build)(Shape::new(3, side, side), classes).unwrap();
    let generator = Generator::new(&graph, 1, [0.5, 0.8]);
    let bytes = |name: &str| -> Vec<u8> {
        let values = generator.read(name).unwrap();
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let shapes = generator.shapes().iter();
    let tensors: Vec<_> = shapes.map(|(n, s)| (n, s.clone(), bytes(n))).collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    serialize(views, None).unwrap()
}

fn load_from(name: &str, source: &Path) -> Result<LoadedModel, String> {
    let spec: ModelSpec = format!("{name}={}", source.display()).parse().unwrap();
    load(&spec, &Config::default()).map_err(|e| e.to_string())
}

#[test]
fn a_published_file_brings_its_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("googlenet-1378be20.pth");
    fs::write(&file, weights("googlenet", 1000)).unwrap();
    let published = preset("googlenet-1378be20.pth");
    // under the architecture's name or any other
    for name in ["googlenet", "photos"] {
        let model = load_from(name, &file).unwrap();
        assert_eq!(
            (model.name.as_str(), model.architecture.name),
            (name, "googlenet")
        );
        assert_eq!(model.preprocessing, published.preprocessing);
        assert_eq!(model.labels[1], "goldfish");
        let Provenance {
            data,
            test_top1,
            test_top5,
            test_source,
            ..
        } = model.provenance;
        assert_eq!((test_top1, test_top5), (Some(69.778), Some(89.53)));
        let data = data.unwrap();
        assert_eq!(data, "torchvision IMAGENET1K_V1 (googlenet-1378be20.pth)");
        let source = test_source.unwrap();
        assert!(source.contains("published by torchvision"), "{source}");
    }
    // another architecture's name is a contradiction, not a name
    let error = load_from("resnet18", &file).unwrap_err();
    assert!(error.contains("missing"), "{error}");

    let unknown = dir.path().join("googlenet.pth");
    fs::rename(&file, &unknown).unwrap();
    let model = load_from("googlenet", &unknown).unwrap();
    assert_eq!(model.preprocessing, Preprocessing::imagenet());
    assert_eq!(model.provenance, Provenance::default());
    let error = load_from("photos", &unknown).unwrap_err();
    assert!(error.contains("unknown architecture"), "{error}");
}

#[test]
fn a_folder_with_a_published_file_says_only_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("googlenet-1378be20.pth");
    fs::write(&file, weights("googlenet", 1000)).unwrap();
    let with = |more: &str| {
        let named = "architecture = 'googlenet'\nweights = 'googlenet-1378be20.pth'\n";
        fs::write(dir.path().join("model.toml"), format!("{named}{more}")).unwrap();
        load_from("net", dir.path()).unwrap()
    };
    let model = with("[preprocess]\ninterpolation = 'bicubic'\n[provenance]\nepochs = 90\n");
    let expected = Preprocessing {
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.5; 3],
        ..Preprocessing::imagenet()
    };
    assert_eq!(model.preprocessing, expected);
    let Provenance {
        epochs, test_top1, ..
    } = model.provenance;
    assert_eq!((epochs, test_top1), (Some(90), Some(69.778)));
    // what the owner measured is not mixed with what was published
    let own = with("[provenance]\ntest_top1 = 70.1\n").provenance;
    assert_eq!((own.test_top1, own.test_top5), (Some(70.1), None));
    assert_eq!(own.test_source, None);

    // trained further on other classes
    fs::write(&file, weights("googlenet", 3)).unwrap();
    let model = with("");
    assert_eq!(model.labels, ["class_0", "class_1", "class_2"]);
    assert_eq!(model.preprocessing.mean, [0.5; 3]);
    assert_eq!(model.provenance, Provenance::default());
}

fn logits(model: LoadedModel, images: &[f32]) -> Vec<f32> {
    let mut engine = model.engines.into_iter().next().unwrap();
    let mut logits = vec![f32::NAN; 2 * model.labels.len()];
    engine.forward(2, images, &mut logits).unwrap();
    logits
}

#[test]
fn stochastic_depth_is_scaled_where_training_did_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.safetensors"), weights("resnet110", 10)).unwrap();
    let with = |manifest: &str| {
        let text = format!("weights = 'w.safetensors'\n{manifest}");
        fs::write(dir.path().join("model.toml"), text).unwrap();
        load_from("net", dir.path())
    };
    let stochdepth = |more: &str| {
        let model = with(&format!("architecture = 'stochdepth_resnet110'\n{more}")).unwrap();
        assert_eq!(model.architecture.name, "stochdepth_resnet110");
        assert_eq!(model.architecture.family, "stochdepth");
        assert_eq!(model.architecture.depth, 110);
        model
    };
    let images = Generator::input(2, 2, Shape::new(3, 32, 32));
    let plain = logits(with("architecture = 'resnet110'").unwrap(), &images);
    let default = logits(stochdepth(""), &images);
    let at_test = logits(stochdepth("survival = 'scaled_at_test'"), &images);
    let at_training = logits(stochdepth("survival = 'scaled_at_training'"), &images);
    assert_eq!(at_test, default);
    assert_eq!(at_training, plain);
    let apart = |a: &[f32], b: &[f32]| {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    };
    assert!(
        apart(&at_test, &at_training) > 1e-2,
        "{at_test:?} {at_training:?}"
    );

    for survival in ["scaled_at_test", "scaled_at_training"] {
        let error = with(&format!(
            "architecture = 'resnet110'\nsurvival = '{survival}'"
        ));
        let error = error.unwrap_err();
        assert!(
            error.contains("survival, which is for networks with stochastic depth; resnet110"),
            "{error}"
        );
    }
    let error = with("architecture = 'stochdepth_resnet110'\nsurvival = 'half'").unwrap_err();
    assert!(
        error.contains("`scaled_at_test` or `scaled_at_training`"),
        "{error}"
    );
}

#[test]
fn both_graphs_of_stochastic_depth_have_the_same_parameters() {
    let twins: Vec<(&Architecture, Build)> = families::all()
        .filter_map(|architecture| Some((architecture, architecture.unscaled?)))
        .collect();
    assert_eq!(twins.len(), 2);
    for (architecture, unscaled) in twins {
        let scaled = architecture.default_graph().unwrap();
        let unscaled = unscaled(scaled.input(), architecture.classes).unwrap();
        assert_eq!(unscaled.parameters(), scaled.parameters());
        let name = architecture.name.strip_prefix("stochdepth_").unwrap();
        assert_eq!(
            unscaled.nodes().len(),
            named(name).default_graph().unwrap().nodes().len()
        );
    }
}
