use super::*;

/// Networks with made-up figures: of ImageNet with an accuracy, of ImageNet without, of CIFAR-10.
pub(super) fn example() -> Comparison {
    let machine = Machine {
        engine: "fused".into(),
        precision: "f32".into(),
        isa: "avx2".into(),
        device: "cpu".into(),
        threads: 2,
    };
    let accuracy = |top1, top5| Accuracy {
        top1,
        top5,
        source: "torchvision, \"IMAGENET1K_V1\"".into(),
    };
    let models = vec![
        row(
            "resnet18",
            18,
            1000,
            1.814,
            Some(accuracy(69.758, Some(89.078))),
        ),
        row("resnet50", 50, 1000, 4.089, Some(accuracy(76.13, None))),
        row("plain18", 18, 1000, 2.795, None),
        row("resnet20", 20, 10, 0.041, Some(accuracy(88.1, Some(99.61)))),
    ];
    Comparison { machine, models }
}

fn row(name: &str, depth: usize, classes: usize, gmacs: f64, accuracy: Option<Accuracy>) -> Row {
    let images_per_second = significant(123.456 / gmacs);
    Row {
        name: name.into(),
        family: name.trim_end_matches(char::is_numeric).into(),
        year: 2015,
        depth,
        input: if classes == 1000 { 224 } else { 32 },
        classes,
        parameters: 11_689_512,
        gmacs,
        weight_bytes: 46_830_112,
        peak_activation_bytes: 4_014_080,
        latency_ms: Latency {
            p50: significant(10.0 * gmacs),
            p99: significant(11.0 * gmacs),
            batches: 20,
        },
        throughput: Throughput {
            images_per_second,
            batch: 8,
        },
        images_per_second_per_gmac: significant(images_per_second / gmacs),
        accuracy,
    }
}

fn text(write: fn(&mut dyn Write, &Comparison) -> Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out, &example()).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_table_has_a_line_for_each_model_in_columns() {
    let table = text(table::write);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + 4 + 2, "{table}");
    let numbers: Vec<&str> = lines[2].split_whitespace().take(15).collect();
    assert_eq!(
        numbers,
        [
            "resnet50", "resnet", "2015", "50", "11.69", "4.089", "46.83", "4.01", "40.89",
            "44.98", "30.2", "8", "7.4", "76.13", "-"
        ]
    );
    // a column of numbers ends where its title ends
    let end = lines[0].find("GMACs").unwrap() + "GMACs".len();
    for (line, gmacs) in lines[1..5].iter().zip(["1.814", "4.089", "2.795", "0.041"]) {
        assert_eq!(&line[end - gmacs.len()..end], gmacs, "{table}");
    }
    assert_eq!(
        lines[6],
        "measured: fused engine, f32, avx2 on cpu, 2 threads"
    );
}

#[test]
fn csv_parses_back_to_the_figures() {
    let text = text(table::write_csv);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let models = example().models;
    assert_eq!(records.len(), models.len());
    for (record, row) in records.iter().zip(&models) {
        let field = |name: &str| {
            let column = header.iter().position(|title| title == name);
            record.get(column.expect(name)).unwrap()
        };
        let number = |name: &str| field(name).parse::<f64>().ok();
        assert_eq!((field("name"), field("family")), (&*row.name, &*row.family));
        assert_eq!(number("classes"), Some(row.classes as f64));
        assert_eq!(number("parameters"), Some(row.parameters as f64));
        assert_eq!(
            number("peak_activation_bytes"),
            Some(row.peak_activation_bytes as f64)
        );
        assert_eq!(number("latency_p99_ms"), Some(row.latency_ms.p99));
        assert_eq!(
            number("images_per_second"),
            Some(row.throughput.images_per_second)
        );
        assert_eq!(
            number("images_per_second_per_gmac"),
            Some(row.images_per_second_per_gmac)
        );
        let accuracy = row.accuracy.as_ref();
        assert_eq!(number("top1"), accuracy.map(|a| a.top1));
        assert_eq!(number("top5"), accuracy.and_then(|a| a.top5));
        // it has commas and quotes
        let source = accuracy.map_or("", |a| &a.source);
        assert_eq!(field("accuracy_source"), source);
    }
}

#[test]
fn json_reads_back_as_it_was_of_the_models_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("comparison.json");
    std::fs::write(&file, serde_json::to_string(&example()).unwrap()).unwrap();
    assert_eq!(read(&file, &[]).unwrap(), example());
    let some = read(&file, &["resnet*".into()]).unwrap();
    let names: Vec<&str> = some.models.iter().map(|row| &*row.name).collect();
    assert_eq!(names, ["resnet18", "resnet50", "resnet20"]);

    std::fs::write(&file, "{\"models\": []}").unwrap();
    let error = format!("{:#}", read(&file, &[]).unwrap_err());
    assert!(
        error.contains("is not what `compare --json` prints") && error.contains("machine"),
        "{error}"
    );
}

#[test]
fn patterns_choose_in_the_order_there_is() {
    let names = vec!["resnet18", "resnet50", "wide_resnet50_2", "vgg16_bn"];
    let chosen = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        choose(names.clone(), |name| name, &patterns)
    };
    assert_eq!(chosen(&[]).unwrap(), names);
    assert_eq!(
        chosen(&["vgg16_bn", "resnet*", "resnet18"]).unwrap(),
        ["resnet18", "resnet50", "vgg16_bn"]
    );
    assert_eq!(chosen(&["*50*"]).unwrap(), ["resnet50", "wide_resnet50_2"]);
    assert_eq!(chosen(&["*_*_*"]).unwrap(), ["wide_resnet50_2"]);
    assert_eq!(chosen(&["*"]).unwrap(), names);
    let error = chosen(&["resnet18", "resnet"]).unwrap_err().to_string();
    assert!(
        error.contains("\"resnet\"") && error.contains("`resnetd models`"),
        "{error}"
    );
    assert!(chosen(&["*x"]).is_err());
}
