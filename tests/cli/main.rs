//! The command line: the real binary, its output and its exit code.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod files;
mod serve;

use common::process::run;
use resnetd::families;

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

    let ran = run(&["models", "resnet50"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    // torchvision's number of parameters, and 4.09 billion multiply-accumulates
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(
        row,
        ["resnet50", "resnet", "50", "25557032", "4.089", "224x224"]
    );

    let error = refused(&["models", "nosuch"]);
    assert!(
        error.contains("\"nosuch\"") && error.contains("`resnetd models`"),
        "{error}"
    );
}

#[test]
fn what_is_no_command_line_is_refused_with_usage() {
    let cases: [(&[&str], &str); 5] = [
        (&["frobnicate"], "frobnicate"),
        (&["classify"], "<FILES>"),
        (&["serve", "--max-batch", "0"], "--max-batch"),
        (&["serve", "--device", "tpu"], "use auto, cpu, cuda"),
        (&["serve", "--model", "resnet50"], "NAME=SOURCE"),
    ];
    for (args, word) in cases {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(word), "{args:?}: {ran:?}");
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_build_without_cuda_says_so() {
    let local = ["--http-addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0"];
    let serve = [&["serve", "--device", "cuda"], local.as_slice()].concat();
    let bench = ["bench", "--architecture", "resnet20", "--device", "cuda:1"];
    for args in [serve.as_slice(), &bench] {
        let error = refused(args);
        assert!(
            error.contains("this build has no CUDA; use --device cpu"),
            "{error}"
        );
    }
}
