//! Holds the direction between rooms that lib.rs draws: reads every `crate::` and `super::` path of src/.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", &["commands"]),
    (
        "commands",
        &[
            "config",
            "server",
            "service",
            "repository",
            "batching",
            "imaging",
            "engine",
            "weights",
            "pool",
            "families",
            "ir",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "server",
            "service",
            "repository",
            "batching",
            "imaging",
            "engine",
            "pool",
            "telemetry",
        ],
    ),
    ("server", &["service", "telemetry"]),
    (
        "service",
        &[
            "repository",
            "batching",
            "imaging",
            "engine",
            "families",
            "pool",
            "ir",
            "telemetry",
        ],
    ),
    (
        "repository",
        &["families", "weights", "imaging", "engine", "ir"],
    ),
    ("batching", &["engine", "telemetry"]),
    ("imaging", &["engine"]),
    ("engine", &["weights", "kernels", "pool", "ir"]),
    ("weights", &["ir"]),
    ("families", &["ir"]),
    ("telemetry", &[]),
    ("pool", &["kernels"]),
    ("kernels", &[]),
    ("ir", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of src") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// First segments of the paths that follow `prefix` in `text`; `use prefix{a::b, c}` yields `a` and `c`.
fn heads_after<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |s: &'a str| {
        let end = s
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(s.len());
        &s[..end]
    };
    let mut heads = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            heads.push(word(rest));
            continue;
        };
        let (mut depth, mut at_start) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && at_start && !c.is_whitespace() {
                heads.push(word(&group[i..]));
                at_start = false;
            }
            at_start |= depth == 1 && c == ',';
        }
    }
    heads
}

#[test]
fn no_room_reaches_against_the_direction() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in &files {
        let parts: Vec<&str> = file
            .strip_prefix(&src)
            .expect("below src")
            .iter()
            .map(|p| p.to_str().expect("UTF-8"))
            .collect();
        let room = parts[0].trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let allowed = ROOMS.iter().find(|(name, _)| *name == room);
        let (name, allowed) =
            allowed.unwrap_or_else(|| panic!("{room} is a room that this test does not know"));
        seen.insert(*name);
        let text = fs::read_to_string(file).expect("UTF-8 source");
        // modules between this file and the crate's root: that many `super::` reach the root
        let depth = parts.len() - usize::from(parts.last() == Some(&"mod.rs"));
        let to_root = "super::".repeat(depth);
        let mut used = heads_after(&text, "crate::");
        used.extend(heads_after(&text, &to_root));
        used.extend(heads_after(&text, "resnetd::"));
        for target in used {
            let is_room = ROOMS.iter().any(|(name, _)| *name == target);
            if is_room && target != room && !allowed.contains(&target) {
                wrong.push(format!("{} uses {target}", file.display()));
            }
        }
    }
    assert_eq!(seen.len(), ROOMS.len(), "rooms without a file: {seen:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn heads_are_found_in_every_form() {
    let text = "use crate::{ir::{Graph, Op}, weights}; crate::engine::x(); use crate::imaging;";
    assert_eq!(
        heads_after(text, "crate::"),
        ["ir", "weights", "engine", "imaging"]
    );
}
