//! What the watch does by itself; `src/service/watching.rs` has what depends on when it looks.

use std::fs;
use std::time::Duration;

use resnetd::service::Watch;

use super::common::eventually;
use super::*;

fn watch(house: &House) -> Watch {
    house.classifier.watch(Duration::from_millis(20)).unwrap()
}

/// Waits for the states of a model.
async fn becomes(house: &House, name: &str, states: &str) {
    let what = format!("{name} is {states:?}");
    eventually(&what, || house.states(name) == states).await;
}

#[tokio::test]
async fn versions_come_break_heal_and_go() {
    let house = House::loaded(&["m/1", "other"]);
    let other = house.classifier.find(Some("other"), None).unwrap();
    let _watch = watch(&house);
    model(&house.path("m/2"));
    becomes(&house, "m", "1 ready, 2 ready").await;
    assert_eq!(house.classify("m").await.unwrap().model.version, "2");

    spoil(&house.path("m/2"));
    becomes(&house, "m", "1 ready, 2 ready*").await;
    assert!(house.classify("m").await.is_ok());
    let failed = house.loads("m")[1];
    a_while().await;
    assert_eq!(house.loads("m")[1], failed, "not tried again");
    mend(&house.path("m/2"));
    becomes(&house, "m", "1 ready, 2 ready").await;

    fs::remove_dir_all(house.path("m/2")).unwrap();
    becomes(&house, "m", "1 ready").await;
    assert!(!house.has_series("version", "2"));
    // what has not changed has not been touched
    let still = house.classifier.find(Some("other"), None).unwrap();
    assert!(Arc::ptr_eq(&other, &still));
    assert_eq!(house.loads("other"), [1.0, 0.0]);
}

#[tokio::test]
async fn models_come_and_go_with_their_folders() {
    let house = House::loaded(&["m"]);
    let _watch = watch(&house);
    model(&house.path("new/7"));
    becomes(&house, "new", "7 ready").await;
    fs::create_dir(house.path("empty")).unwrap();
    becomes(&house, "empty", "? failed").await;
    // its only version
    fs::remove_dir_all(house.path("new/7")).unwrap();
    becomes(&house, "new", "? failed").await;
    assert!(!house.has_series("version", "7"));
    for name in ["new", "empty"] {
        fs::remove_dir(house.path(name)).unwrap();
        becomes(&house, name, "").await;
        assert!(!house.has_series("model", name));
    }
    assert_eq!(house.states("m"), "1 ready");
}

#[tokio::test]
async fn what_vanishes_as_a_whole_goes_on_serving() {
    let house = House::loaded(&["m"]);
    let named = House::named(&["m/1"]);
    named.classifier.load_announced().unwrap();
    let _watches = [watch(&house), watch(&named)];
    // at once: what is removed file by file may be seen half gone
    let away = tempfile::tempdir().unwrap();
    fs::rename(house.directory.path(), away.path().join("directory")).unwrap();
    fs::rename(named.path("m"), away.path().join("m")).unwrap();
    a_while().await;
    assert_eq!(
        (house.states("m"), named.states("m")),
        ("1 ready".into(), "1 ready".into())
    );
    assert!(house.classify("m").await.is_ok() && named.classify("m").await.is_ok());
    // back again, and other
    model(&house.path("m/5"));
    model(&named.path("m/6"));
    becomes(&house, "m", "5 ready").await;
    becomes(&named, "m", "6 ready").await;
}

#[tokio::test]
async fn what_a_call_unloaded_stays_so_until_its_files_change() {
    let house = House::loaded(&["m/1", "m/2", "other"]);
    let _watch = watch(&house);
    house.classifier.unload("m").await.unwrap();
    a_while().await;
    assert_eq!(house.states("m"), "1 unloaded, 2 unloaded");
    mend(&house.path("m/2"));
    becomes(&house, "m", "1 unloaded, 2 ready").await;
}

#[tokio::test]
async fn a_link_that_is_swapped_is_a_change() {
    let house = House::new(&[]);
    for name in ["..one", "..two"] {
        model(&house.path(name));
    }
    let link = house.path("m");
    let point = |to: &str| {
        let fresh = house.path("..fresh");
        std::os::unix::fs::symlink(house.path(to), &fresh).unwrap();
        fs::rename(fresh, &link).unwrap();
    };
    point("..one");
    let _watch = watch(&house);
    becomes(&house, "m", "1 ready").await;
    point("..two");
    eventually("it is loaded again", || house.loads("m") == [2.0, 0.0]).await;
}
