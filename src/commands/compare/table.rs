//! The comparison as text: a table to read, and comma-separated values in plain units.

use std::io::Write;

use anyhow::Result;

use super::{Comparison, Row};

/// An aligned table, and what computed below it.
pub(super) fn write(out: &mut dyn Write, comparison: &Comparison) -> Result<()> {
    let header = HEADER.map(str::to_owned);
    let lines: Vec<[String; COLUMNS]> = comparison.models.iter().map(cells).collect();
    let mut widths = [0; COLUMNS];
    for line in lines.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in [&header].into_iter().chain(&lines) {
        let mut text = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // names and sources are read from the left, numbers compared from the right
            text += &match LEFT.contains(&column) {
                true => format!("{cell:<width$}  "),
                false => format!("{cell:>width$}  "),
            };
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    writeln!(out, "\nmeasured: {}", comparison.machine)?;
    Ok(())
}

const COLUMNS: usize = 16;
const LEFT: [usize; 3] = [0, 1, 15];
const HEADER: [&str; COLUMNS] = [
    "name",
    "family",
    "year",
    "depth",
    "Mparams",
    "GMACs",
    "weights MB",
    "peak act. MB",
    "p50 ms",
    "p99 ms",
    "images/s",
    "batch",
    "images/s/GMAC",
    "top-1 %",
    "top-5 %",
    "accuracy of",
];

fn cells(row: &Row) -> [String; COLUMNS] {
    let mega = |count: u64| format!("{:.2}", count as f64 / 1e6);
    let accuracy = row.accuracy.as_ref();
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |p| format!("{p:.2}"));
    [
        row.name.clone(),
        row.family.clone(),
        row.year.to_string(),
        row.depth.to_string(),
        mega(row.parameters),
        format!("{:.3}", row.gmacs),
        mega(row.weight_bytes),
        mega(row.peak_activation_bytes),
        format!("{:.2}", row.latency_ms.p50),
        format!("{:.2}", row.latency_ms.p99),
        format!("{:.1}", row.throughput.images_per_second),
        row.throughput.batch.to_string(),
        format!("{:.1}", row.images_per_second_per_gmac),
        percent(accuracy.map(|a| a.top1)),
        percent(accuracy.and_then(|a| a.top5)),
        accuracy.map_or("-".to_owned(), |a| a.source.clone()),
    ]
}

/// One line a model, with a header; what is not known is empty.
pub(super) fn write_csv(out: &mut dyn Write, comparison: &Comparison) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record([
        "name",
        "family",
        "year",
        "depth",
        "input",
        "classes",
        "parameters",
        "gmacs",
        "weight_bytes",
        "peak_activation_bytes",
        "latency_p50_ms",
        "latency_p99_ms",
        "images_per_second",
        "batch",
        "images_per_second_per_gmac",
        "top1",
        "top5",
        "accuracy_source",
    ])?;
    for row in &comparison.models {
        let accuracy = row.accuracy.as_ref();
        writer.serialize((
            (&row.name, &row.family, row.year, row.depth),
            (row.input, row.classes, row.parameters, row.gmacs),
            (row.weight_bytes, row.peak_activation_bytes),
            (row.latency_ms.p50, row.latency_ms.p99),
            (row.throughput.images_per_second, row.throughput.batch),
            row.images_per_second_per_gmac,
            (accuracy.map(|a| a.top1), accuracy.and_then(|a| a.top5)),
            accuracy.map(|a| &a.source),
        ))?;
    }
    writer.flush()?;
    Ok(())
}
