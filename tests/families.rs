//! Every registered architecture against the reference's parameter lists and published figures.

use std::collections::BTreeMap;
use std::path::Path;

use resnetd::families;

/// The reference's lists: model, library, parameter names and shapes.
fn references() -> Vec<(String, String, BTreeMap<String, Vec<usize>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/params");
    let files = std::fs::read_dir(folder).expect("the folder of parameter lists");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let (library, model) = stem
            .and_then(|stem| stem.split_once('_'))
            .expect("LIB_MODEL");
        let text = std::fs::read_to_string(&path).expect("a readable parameter list");
        let mut list: BTreeMap<String, Vec<usize>> =
            serde_json::from_str(&text).expect("name to shape");
        list.retain(|name, _| !name.ends_with("num_batches_tracked"));
        (model.to_owned(), library.to_owned(), list)
    };
    files.map(read).collect()
}

#[test]
fn parameter_names_and_shapes_are_the_references() {
    let references = references();
    assert_eq!(references.len(), 47);
    for (name, library, mut expected) in references {
        let architecture = families::find(&name).expect(&name);
        let graph = architecture.default_graph().expect(&name);
        let skipped = |name: &str| graph.training_only().iter().any(|p| name.starts_with(p));
        for prefix in graph.training_only() {
            let used = expected.keys().any(|name| name.starts_with(prefix));
            assert!(used || library == "timm", "{name} of {library}: {prefix}");
        }
        expected.retain(|name, _| !skipped(name));
        let found: BTreeMap<_, _> = graph
            .parameters()
            .into_iter()
            .map(|p| (p.name, p.shape))
            .collect();
        assert_eq!(found, expected, "{name} of {library}");
    }
}

/// Depth of a name without a number, or with another one.
fn stated_depth(name: &str) -> Option<usize> {
    let depth = match name {
        "alexnet" => 8,
        "nin" => 12,
        "nin_cifar" => 9,
        "googlenet" => 22,
        "inception_v3" => 48,
        "inception_v4" => 76,
        "inception_resnet_v2" => 176,
        _ => return None,
    };
    Some(depth)
}

#[test]
fn depth_is_the_number_in_the_name() {
    for architecture in families::all() {
        let name = architecture.name;
        let digits: String = name
            .trim_start_matches("resnetv2_")
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        let stated = stated_depth(name).or_else(|| digits.parse().ok());
        assert_eq!(stated, Some(architecture.depth), "{name}");
        let graph = architecture.default_graph().expect(name);
        let counted = graph.depth(architecture.depth_rule);
        assert_eq!(counted, architecture.depth, "{name}");
    }
}

#[test]
fn names_are_unique_and_complete() {
    let mut names: Vec<_> = families::all().map(|a| a.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(count, 56, "{names:?}");
    assert!(families::find("resnet50").is_some());
    assert!(families::find("resnet51").is_none());
}

/// Parameters and GMACs as torchvision publishes them (GMACs to three digits).
#[test]
fn counts_are_the_published_ones() {
    for (name, parameters, gmacs) in [
        ("resnet18", 11_689_512, 1.814),
        ("resnet34", 21_797_672, 3.664),
        ("resnet50", 25_557_032, 4.089),
        ("resnet101", 44_549_160, 7.801),
        ("resnet152", 60_192_808, 11.514),
        ("resnext50_32x4d", 25_028_904, 4.230),
        ("resnext101_32x8d", 88_791_336, 16.414),
        ("resnext101_64x4d", 83_455_272, 15.460),
        ("wide_resnet50_2", 68_883_240, 11.398),
        ("wide_resnet101_2", 126_886_696, 22.753),
        ("alexnet", 61_100_840, 0.714),
        ("vgg11", 132_863_336, 7.609),
        ("vgg13", 133_047_848, 11.308),
        ("vgg16", 138_357_544, 15.470),
        ("vgg19", 143_667_240, 19.632),
        ("vgg11_bn", 132_868_840, 7.609),
        ("vgg13_bn", 133_053_736, 11.308),
        ("vgg16_bn", 138_365_992, 15.470),
        ("vgg19_bn", 143_678_248, 19.632),
        ("googlenet", 6_624_904, 1.498),
        // published with the auxiliary classifier's parameters
        ("inception_v3", 27_161_264 - 3_326_696, 5.713),
    ] {
        let graph = families::find(name)
            .expect(name)
            .default_graph()
            .expect(name);
        let counts = graph.counts();
        assert_eq!(counts.parameters, parameters, "{name}");
        let measured = counts.macs as f64 / 1e9;
        assert!(
            (measured / gmacs - 1.0).abs() < 0.01,
            "{name}: {measured} GMACs"
        );
    }
}

#[test]
fn an_image_too_small_is_an_error_that_names_the_layer() {
    let build = families::find("resnet50").expect("registered").build;
    let graph = build(resnetd::ir::Shape::new(1, 224, 224), 1000).expect("one channel is fine");
    assert_eq!(graph.input().channels, 1);
    let error = build(resnetd::ir::Shape::new(3, 0, 0), 1000).expect_err("no pixels");
    assert!(error.contains("smaller than the window"), "{error}");
}
