use std::os::unix::fs::symlink;

use super::*;
use crate::repository::tests::{MINIMAL, weights};
use crate::repository::{Config, load};

fn folder() -> (tempfile::TempDir, ModelSpec) {
    let folder = tempfile::tempdir().unwrap();
    let spec = format!("net={}", folder.path().display()).parse().unwrap();
    (folder, spec)
}

fn model(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("model.toml"), MINIMAL).unwrap();
    fs::write(path.join("w.safetensors"), weights(10)).unwrap();
}

#[test]
fn folders_without_model_toml_hold_versions() {
    let (folder, spec) = folder();
    let error = spec.versions().unwrap_err().to_string();
    assert!(
        error.contains("expected model.toml in it, or a folder"),
        "{error}"
    );
    assert!(matches!(
        spec.newest(),
        Err(RepositoryError::NoVersions { .. })
    ));
    for version in ["v10", "v9", ".tmp", "no good"] {
        model(&folder.path().join(version));
    }
    fs::write(folder.path().join("README"), "").unwrap();
    let versions = spec.versions().unwrap();
    let names: Vec<_> = versions
        .iter()
        .map(|s| s.version.as_deref().unwrap())
        .collect();
    assert_eq!(names, ["no good", "v9", "v10"]);
    assert_eq!(spec.newest().unwrap(), versions[2]);
    assert_eq!(
        versions[2].versions().unwrap(),
        versions[2..],
        "no versions of versions"
    );
    let error = load(&versions[0], &Config::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no good: the version has characters"),
        "{error}"
    );

    // the folder's name, whatever model.toml says
    fs::write(
        folder.path().join("v9/model.toml"),
        format!("{MINIMAL}version = '3'\n"),
    )
    .unwrap();
    let model = load(&versions[1], &Config::default()).unwrap();
    assert_eq!((model.name.as_str(), model.version.as_str()), ("net", "v9"));

    // a model.toml makes it one model
    fs::write(folder.path().join("model.toml"), MINIMAL).unwrap();
    assert_eq!(spec.versions().unwrap(), [spec]);
}

#[test]
fn versions_are_in_the_order_people_count_in() {
    let ascending = [
        "",
        "1",
        "1-rc",
        "1.2",
        "1.10",
        "02",
        "2",
        "9",
        "10",
        "99999999999999999999998",
        "99999999999999999999999",
        "a",
        "a2",
        "a10",
        "b",
        "v1",
        "v9",
        "v10",
        "v10b",
    ];
    for (i, a) in ascending.iter().enumerate() {
        for (j, b) in ascending.iter().enumerate() {
            assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} {b}");
        }
    }
}

#[test]
fn a_stamp_changes_with_the_files_and_not_without() {
    let (folder, spec) = folder();
    let path = folder.path();
    fs::create_dir(path.join("parts")).unwrap();
    fs::write(path.join("parts/a"), "1").unwrap();
    let mut before = Stamp::of(&spec.source);
    let mut changed = |what: &str| {
        let now = Stamp::of(&spec.source);
        assert_ne!(std::mem::replace(&mut before, now), before, "{what}");
        assert_eq!(Stamp::of(&spec.source), before, "{what}");
    };
    fs::write(path.join("parts/a"), "12").unwrap();
    changed("longer");
    let file = fs::File::options()
        .write(true)
        .open(path.join("parts/a"))
        .unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    changed("another time");
    let was = fs::metadata(path.join("parts/a"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(path.join("b"), "21").unwrap();
    fs::File::options()
        .write(true)
        .open(path.join("b"))
        .unwrap()
        .set_modified(was)
        .unwrap();
    changed("a file more");
    fs::rename(path.join("b"), path.join("parts/a")).unwrap();
    changed("another file of the same length and time");
    symlink(path, path.join("parts/circle")).unwrap();
    changed("a link, and no end of folders");
    symlink("nowhere", path.join("c")).unwrap();
    changed("a link to nothing");
    let hub: ModelSpec = "a=hf:timm/resnet50.a1_in1k".parse().unwrap();
    assert_eq!(Stamp::of(&hub.source), Stamp::default());
}
