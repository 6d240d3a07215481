//! The command line: the real binary, its output and its exit code.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod files;
mod serve;

use std::collections::BTreeSet;

use common::process::run;
use resnetd::families;
use resnetd::repository::Preset;

/// The error of a command that must fail with exit code 1.
fn refused(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    let error = last.strip_prefix("resnetd: ");
    error.unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

#[test]
fn models_are_listed_with_what_they_cost() {
    let ran = run(&["models"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut lines = ran.stdout.lines();
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        columns,
        ["name", "family", "depth", "parameters", "GMACs", "input"]
    );
    let names: Vec<_> = lines
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    let known: Vec<_> = families::all()
        .map(|architecture| architecture.name)
        .collect();
    assert_eq!(names, known);
    let lengths: BTreeSet<usize> = ran.stdout.lines().map(str::len).collect();
    assert_eq!(
        lengths.len(),
        1,
        "columns are as wide as their words: {ran:?}"
    );

    let ran = run(&["models", "resnet50"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    // torchvision's number of parameters, and 4.09 billion multiply-accumulates
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        row,
        ["resnet50", "resnet", "50", "25557032", "4.089", "224x224"]
    );

    // and the weights published for it
    let presets: Vec<_> = Preset::all()
        .iter()
        .filter(|preset| preset.architecture.name == "resnet50")
        .collect();
    assert_eq!((lines[2], lines.len()), ("", 4 + presets.len()), "{ran:?}");
    for (line, preset) in lines[4..].iter().zip(presets) {
        assert!(line.starts_with(&preset.source), "{line}");
    }
    for expected in [
        "source weights interpolation resize crop top-1 top-5",
        "resnet50-11ad3fa6.pth IMAGENET1K_V2 bilinear 232 224 80.858 95.434",
        "hf:timm/resnet50.tv_in1k tv_in1k bilinear 256 224 76.156 92.866",
    ] {
        let words = |line: &&str| line.split_whitespace().eq(expected.split(' '));
        assert_eq!(
            lines.iter().filter(|line| words(line)).count(),
            1,
            "{ran:?}"
        );
    }
    let ran = run(&["models", "resnet20"]);
    assert_eq!(ran.stdout.lines().count(), 2, "none is published: {ran:?}");

    let error = refused(&["models", "nosuch"]);
    assert!(
        error.contains("\"nosuch\"") && error.contains("`resnetd models`"),
        "{error}"
    );
}

#[test]
fn what_is_no_command_line_is_refused_with_usage() {
    let cases: [(&[&str], &str); 8] = [
        (&["frobnicate"], "frobnicate"),
        (&["classify"], "<FILES>"),
        (&["serve", "--max-batch", "0"], "--max-batch"),
        (&["serve", "--device", "tpu"], "use auto, cpu, cuda"),
        (&["serve", "--device", "cuda:0,1"], "\"1\" is not a device"),
        (&["serve", "--device", "cuda,cuda:0"], "named twice"),
        (&["serve", "--device", "cpu,cuda:0"], "cpu stands alone"),
        (&["serve", "--model", "resnet50"], "NAME=SOURCE"),
    ];
    for (args, word) in cases {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(word), "{args:?}: {ran:?}");
    }
}

#[test]
fn what_measures_one_device_refuses_several() {
    let compare = ["compare", "resnet20"];
    let bench = ["bench", "--architecture", "resnet20"];
    for command in [compare.as_slice(), &bench] {
        for devices in ["cuda:0,cuda:1", "cuda:all"] {
            let error = refused(&[command, &["--device", devices]].concat());
            assert!(error.contains("name one, as in --device cuda:0"), "{error}");
        }
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_build_without_cuda_says_so() {
    let local = ["--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"];
    let serve = |device| [&["serve", "--device", device], local.as_slice()].concat();
    let bench = ["bench", "--architecture", "resnet20", "--device", "cuda:1"].to_vec();
    let several = ["cuda", "cuda:0,cuda:1", "cuda:all"].map(serve);
    for args in several.into_iter().chain([bench]) {
        let error = refused(&args);
        assert!(
            error.contains("this build has no CUDA; use --device cpu"),
            "{error}"
        );
    }
}
