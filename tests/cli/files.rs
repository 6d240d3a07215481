//! `resnetd classify` and `resnetd evaluate`.

use std::path::Path;

use serde_json::Value;

use super::common::process::{data, run};
use super::refused;

/// Labels of the embedded model, by class.
const LABELS: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

fn path(file: &str) -> String {
    data(file).to_str().unwrap().to_owned()
}

/// The label at a place of an answer, 0 the most probable.
fn label(answer: &Value, place: usize) -> &str {
    answer["predictions"][place]["label"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
}

/// What `classify --json` says of each file, in their order.
fn classify(files: &[&str], more: &[&str]) -> Vec<Value> {
    let files: Vec<String> = files.iter().map(|file| path(file)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let ran = run(&[["classify", "--json"].as_slice(), more, &files].concat());
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), files.len(), "{ran:?}");
    for (line, file) in lines.iter().zip(files) {
        assert_eq!(line["file"], file);
    }
    lines
}

#[test]
fn files_are_classified_as_json_lines() {
    let lines = classify(&["preprocess/cat_rgb.png", "imaging/grey.jpg"], &[]);
    for line in &lines {
        let predictions = line["predictions"].as_array().unwrap();
        let probabilities: Vec<f64> = predictions
            .iter()
            .map(|p| p["probability"].as_f64().unwrap())
            .collect();
        assert_eq!(probabilities.len(), 5);
        assert!(probabilities.is_sorted_by(|a, b| a >= b), "{line}");
        let sum: f64 = probabilities.iter().sum();
        assert!(
            sum > 0.5 && sum <= 1.0 + 1e-6,
            "the best five of ten: {line}"
        );
        for prediction in predictions {
            let class = prediction["class"].as_u64().unwrap() as usize;
            assert_eq!(prediction["label"], LABELS[class]);
        }
    }
    let all = classify(&["preprocess/cat_rgb.png"], &["--top-k", "100"]);
    let predictions = all[0]["predictions"].as_array().unwrap();
    let sum: f64 = predictions
        .iter()
        .map(|p| p["probability"].as_f64().unwrap())
        .sum();
    assert_eq!(predictions.len(), 10, "as many as the model has");
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

#[test]
fn a_bad_file_is_reported_and_the_others_printed() {
    let (good, bad, missing) = (
        path("preprocess/tiny.png"),
        path("preprocess/cases.json"),
        path("missing.png"),
    );
    for form in [None, Some("--json")] {
        let mut args = vec!["classify", &bad, &good, &missing, &good];
        args.extend(form);
        let ran = run(&args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.stderr.contains("2 of 4 files could not be classified"),
            "{ran:?}"
        );
        if form.is_some() {
            let codes: Vec<Value> = ran
                .stdout
                .lines()
                .map(|l| serde_json::from_str::<Value>(l).unwrap()["code"].clone())
                .collect();
            let null = Value::Null;
            assert_eq!(
                codes,
                [
                    "undecodable_image".into(),
                    null.clone(),
                    "invalid_request".into(),
                    null
                ]
            );
        } else {
            assert_eq!(ran.stdout.matches(&good).count(), 2, "{ran:?}");
            assert!(
                ran.stdout
                    .contains(&format!("{bad}\n  the image cannot be decoded: ")),
                "{ran:?}"
            );
            assert!(ran.stdout.contains("cannot read"), "{ran:?}");
        }
    }
}

#[test]
fn the_table_has_a_line_for_each_class() {
    let file = path("preprocess/tiny.png");
    let known = classify(&["preprocess/tiny.png"], &["--top-k", "3"]);
    let ran = run(&["classify", "--top-k", "3", &file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut lines = ran.stdout.lines();
    assert_eq!(lines.next(), Some(file.as_str()));
    let rows: Vec<Vec<&str>> = lines
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{ran:?}");
    for (place, row) in rows.iter().enumerate() {
        let percent = 100.0
            * known[0]["predictions"][place]["probability"]
                .as_f64()
                .unwrap();
        assert_eq!(
            *row,
            [&format!("{percent:.2}"), "%", label(&known[0], place)]
        );
    }
}

/// Copies a test image into a class folder.
fn place(root: &Path, class: &str, file: &str) {
    let folder = root.join(class);
    std::fs::create_dir_all(&folder).unwrap();
    let name = Path::new(file).file_name().unwrap();
    std::fs::copy(data(file), folder.join(name)).unwrap();
}

#[test]
fn accuracy_is_counted_over_class_folders() {
    let files = [
        "preprocess/cat_rgb.png",
        "imaging/grey.jpg",
        "preprocess/tiny.png",
        "preprocess/coffee_420.jpg",
    ];
    let known = classify(&files, &["--top-k", "10"]);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // right; right, in a folder written otherwise; second; sixth, which is not among the first five
    place(root, label(&known[0], 0), files[0]);
    place(root, &label(&known[1], 0).to_uppercase(), files[1]);
    place(root, label(&known[2], 1), files[2]);
    place(root, label(&known[3], 5), files[3]);
    let data = root.to_str().unwrap();
    let evaluate = |more: &[&str]| {
        let ran = run(&[&["evaluate", "--data", data], more].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    };
    let ran = evaluate(&[]);
    let expected = "resnet20-cifar10: top-1 50.00 %, top-5 75.00 % of 4 images";
    assert!(ran.stdout.starts_with(expected), "{ran:?}");

    // what cannot be decoded is wrong, and named
    place(root, label(&known[0], 0), "preprocess/cases.json");
    let ran = evaluate(&["--json"]);
    let line: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&line["images"], &line["failed"]), (&5.into(), &1.into()));
    assert_eq!((&line["top1"], &line["top5"]), (&40.0.into(), &60.0.into()));
    assert!(line["images_per_second"].as_f64().unwrap() > 0.0);
    assert!(ran.stderr.contains("cases.json"), "{ran:?}");

    place(root, "cats", files[0]);
    let error = refused(&["evaluate", "--data", data]);
    assert!(
        error.contains("cats") && error.contains("airplane"),
        "{error}"
    );
}

#[test]
fn class_folders_of_other_names_are_taken_in_their_order_when_there_is_one_for_each() {
    let known = classify(&["preprocess/tiny.png"], &[]);
    let class = known[0]["predictions"][0]["class"].as_u64().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for i in 0..10 {
        std::fs::create_dir(folder.path().join(format!("n{i}"))).unwrap();
    }
    place(folder.path(), &format!("n{class}"), "preprocess/tiny.png");
    let data = folder.path().to_str().unwrap();
    let ran = run(&["evaluate", "--data", data]);
    assert!(ran.stdout.contains("top-1 100.00 %"), "{ran:?}");

    std::fs::remove_dir(folder.path().join(format!("n{}", (class + 1) % 10))).unwrap();
    refused(&["evaluate", "--data", data]);
    let empty = tempfile::tempdir().unwrap();
    let error = refused(&["evaluate", "--data", empty.path().to_str().unwrap()]);
    assert!(error.contains("class folders"), "{error}");
}
