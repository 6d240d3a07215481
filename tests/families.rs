//! Every registered architecture against the reference's parameter lists and published figures.

use std::collections::BTreeMap;
use std::path::Path;

use resnetd::families;

const LIBRARIES: [&str; 3] = ["torchvision", "timm", "resnetd"];

fn reference(name: &str) -> Option<BTreeMap<String, Vec<usize>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/params");
    let file = LIBRARIES
        .iter()
        .map(|library| folder.join(format!("{library}_{name}.json")))
        .find(|path| path.exists())?;
    let text = std::fs::read_to_string(file).expect("a readable parameter list");
    let mut list: BTreeMap<String, Vec<usize>> =
        serde_json::from_str(&text).expect("name to shape");
    list.retain(|name, _| !name.ends_with("num_batches_tracked"));
    Some(list)
}

#[test]
fn parameter_names_and_shapes_are_the_references() {
    let mut compared = Vec::new();
    for architecture in families::all() {
        let Some(expected) = reference(architecture.name) else {
            continue;
        };
        let graph = architecture.default_graph().expect(architecture.name);
        let found: BTreeMap<_, _> = graph
            .parameters()
            .into_iter()
            .map(|p| (p.name, p.shape))
            .collect();
        assert_eq!(found, expected, "{}", architecture.name);
        compared.push(architecture.name);
    }
    // every list but those of families to come: VGG, AlexNet, NiN, GoogLeNet, Inceptions, stochastic depth
    assert_eq!(compared.len(), 29, "{compared:?}");
}

#[test]
fn depth_is_the_number_in_the_name() {
    for architecture in families::all() {
        let digits: String = architecture
            .name
            .trim_start_matches("resnetv2_")
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        assert_eq!(
            digits.parse(),
            Ok(architecture.depth),
            "{}",
            architecture.name
        );
        let graph = architecture.default_graph().expect(architecture.name);
        assert_eq!(
            graph.depth(architecture.depth_rule),
            architecture.depth,
            "{}",
            architecture.name
        );
    }
}

#[test]
fn names_are_unique_and_complete() {
    let mut names: Vec<_> = families::all().map(|a| a.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(count, 39, "{names:?}");
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
