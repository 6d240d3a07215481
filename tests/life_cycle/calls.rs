//! What the calls do.

use std::fs;
use std::task::{Context, Poll, Waker};

use resnetd::service::Readiness;

use super::common::{colours, eventually};
use super::*;

#[tokio::test]
async fn every_version_is_loaded_and_the_newest_answers_unless_one_is_named() {
    let house = House::loaded(&["m/10", "m/9", "m/2", "m/.partial", "flat"]);
    assert_eq!(house.states("m"), "2 ready, 9 ready, 10 ready");
    assert_eq!(house.states("flat"), "1 ready");
    assert_eq!(house.classify("m").await.unwrap().model.version, "10");
    let find = |version| house.classifier.find(Some("m"), Some(version));
    assert_eq!(find("9").unwrap().version, "9");
    let error = find("3").unwrap_err();
    assert_eq!(error.code, Code::ModelNotFound);
    let text = "there is no version \"3\" of the model m; versions served: 2, 9, 10";
    assert_eq!(error.message, text);
    let series = |version| house.has_series("version", version);
    assert!(series("2") && series("9") && series("10"));
    assert_eq!(house.loads("m"), [3.0, 0.0]);

    // an older one answers while the newest is broken
    spoil(&house.path("m/10"));
    house.classifier.unload("m").await.unwrap();
    let error = house.classifier.load("m").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error
            .message
            .contains("m could not be loaded: version 10: "),
        "{error}"
    );
    assert_eq!(house.states("m"), "2 ready, 9 ready, 10 failed");
    assert_eq!(house.classify("m").await.unwrap().model.version, "9");
    assert_eq!(find("10").unwrap_err().code, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_by_the_model_it_was_admitted_to() {
    let house = House::new(&["m/3"]);
    let (fake, remote) = colours("m");
    house.classifier.load_model(fake).unwrap();
    let warm_up = remote.executed();
    remote.hold();
    let admission = house.classifier.admit(Some("m"), 1).unwrap();
    let old = Arc::downgrade(&admission.model);
    let classifier = Arc::clone(&house.classifier);
    let held = tokio::spawn(async move { classifier.infer(admission, request()).await });
    eventually("the batch runs", || remote.executed() > warm_up).await;

    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "3 ready");
    assert_eq!(
        house.classify("m").await.unwrap().model.architecture,
        "plain20"
    );
    house.classifier.unload("m").await.unwrap();
    assert!(!held.is_finished() && old.upgrade().is_some());
    remote.release();
    let reply = held.await.unwrap().unwrap();
    assert_eq!(reply.model.architecture, "colours7");
    assert!(reply.results[0].is_ok());
    drop(reply);
    eventually("the old model is gone", || old.upgrade().is_none()).await;
}

#[tokio::test]
async fn a_reload_that_fails_leaves_what_serves() {
    let house = House::loaded(&["m/1", "flat"]);
    for (name, folder) in [("m", "m/1"), ("flat", "flat")] {
        spoil(&house.path(folder));
        let error = house.classifier.load(name).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains("w.safetensors"), "{error}");
        assert_eq!(house.states(name), "1 ready*");
        let reason = house.rows(name)[0].reload_error.clone().unwrap();
        assert!(reason.contains("w.safetensors"), "{reason}");
        assert_eq!(house.loads(name), [1.0, 1.0]);
        assert!(house.classify(name).await.is_ok());

        mend(&house.path(folder));
        house.classifier.load(name).await.unwrap();
        assert_eq!(house.states(name), "1 ready");
        assert_eq!(house.loads(name), [2.0, 1.0]);
    }
    // a folder that is no model any more
    fs::remove_file(house.path("flat/model.toml")).unwrap();
    let error = house.classifier.load("flat").await.unwrap_err();
    assert!(
        error
            .message
            .contains("expected model.toml in it, or a folder"),
        "{error}"
    );
    assert_eq!(house.states("flat"), "1 ready*");
}

#[tokio::test]
async fn an_unloaded_model_is_not_found_and_leaves_no_series() {
    let house = House::loaded(&["m/1", "m/2", "broken", "other"]);
    spoil(&house.path("broken"));
    let _ = house.classifier.load("broken").await;
    house.classify("m").await.unwrap();
    for name in ["m", "broken"] {
        assert!(house.has_series("model", name));
        house.classifier.unload(name).await.unwrap();
        assert!(
            !house.has_series("model", name),
            "{}",
            house.metrics.render()
        );
    }
    assert_eq!(house.states("m"), "1 unloaded, 2 unloaded");
    for version in [None, Some("1")] {
        let error = house.classifier.find(Some("m"), version).unwrap_err();
        assert_eq!(error.code, Code::ModelNotFound);
        assert!(
            error.message.contains("the model m has been unloaded"),
            "{error}"
        );
    }
    house.classifier.unload("m").await.unwrap();
    // who named nobody is answered by the next
    assert_eq!(house.classifier.find(None, None).unwrap().name, "other");
    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "1 ready, 2 ready");
    assert!(house.has_series("model", "m"));
}

#[tokio::test]
async fn only_names_of_the_model_directory_are_loaded() {
    let house = House::loaded(&["m"]);
    model(&house.path("new"));
    model(&house.path(".hidden"));
    for name in ["nosuch", "../m", "./new", "new/", ".hidden", ".", "", "/"] {
        for answer in [house.classifier.load(name), house.classifier.unload(name)] {
            let error = answer.await.unwrap_err();
            assert_eq!(error.code, Code::ModelNotFound, "{name}: {error}");
            assert!(error.message.contains(&format!("{name:?}")), "{error}");
        }
    }
    house.classifier.load("new").await.unwrap();
    assert_eq!(house.states("new"), "1 ready");
    assert_eq!(house.classifier.models().len(), 2);
}

#[tokio::test]
async fn versions_gone_from_disk_leave_with_their_series() {
    let house = House::loaded(&["m/1", "m/2", "flat"]);
    fs::remove_dir_all(house.path("m/2")).unwrap();
    model(&house.path("m/3"));
    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "1 ready, 3 ready");
    assert!(!house.has_series("version", "2"));

    // a version that a file names
    let manifest = house.path("flat/model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("version = 'b'\n{text}")).unwrap();
    house.classifier.load("flat").await.unwrap();
    assert_eq!(house.states("flat"), "b ready");
    let text = house.metrics.render();
    let of = |line: &&str| line.contains("model=\"flat\"") && line.contains("version=\"1\"");
    assert_eq!(text.lines().find(of), None);
    assert!(house.has_series("version", "b"));

    // from versions to none and back
    fs::rename(house.path("m"), house.path("was")).unwrap();
    model(&house.path("m"));
    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "1 ready");
    fs::remove_dir_all(house.path("m")).unwrap();
    fs::rename(house.path("was"), house.path("m")).unwrap();
    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "1 ready, 3 ready");
}

#[tokio::test]
async fn readiness_waits_for_the_start_alone() {
    let house = House::new(&["a", "b/1", "b/2"]);
    spoil(&house.path("a"));
    let mut changes = house.classifier.subscribe();
    assert_eq!(*changes.borrow_and_update(), Readiness::Starting);
    house.classifier.load_announced().unwrap();
    assert_eq!(*changes.borrow_and_update(), Readiness::Ready);
    assert_eq!(house.states("a"), "? failed");
    // nothing of this turns it off
    model(&house.path("c"));
    house.classifier.load("c").await.unwrap();
    let _ = house.classifier.load("a").await.unwrap_err();
    house.classifier.unload("b").await.unwrap();
    assert!(!changes.has_changed().unwrap());
    // this does
    house.classifier.unload("c").await.unwrap();
    assert_eq!(*changes.borrow_and_update(), Readiness::Starting);
    house.classifier.load("b").await.unwrap();
    assert!(house.classifier.is_ready());
}

#[tokio::test]
async fn what_lost_its_devices_is_back_when_it_is_loaded_anew() {
    let house = House::new(&["m/3", "other"]);
    let (fake, remote) = colours("m");
    house.classifier.load_model(fake).unwrap();
    house.classifier.load("other").await.unwrap();
    assert!(house.classifier.is_ready());
    remote.lose();
    let error = house.classify("m").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert_eq!(house.states("m"), "3 failed");
    assert_eq!(
        house.classifier.subscribe().borrow().clone(),
        Readiness::Lost
    );
    assert!(house.classify("other").await.is_ok());
    assert!(
        house.has_series("family", "colours"),
        "its loss can be seen"
    );

    // not by trying
    spoil(&house.path("m/3"));
    let _ = house.classifier.load("m").await.unwrap_err();
    assert!(!house.classifier.is_ready());
    mend(&house.path("m/3"));
    house.classifier.load("m").await.unwrap();
    assert_eq!(house.states("m"), "3 ready");
    assert!(house.classifier.is_ready());
    assert!(house.classify("m").await.is_ok());
    assert!(!house.has_series("family", "colours"));
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_leaves() {
    let house = House::new(&["m"]);
    let mut load = house.classifier.load("m");
    let context = &mut Context::from_waker(Waker::noop());
    assert!(matches!(load.as_mut().poll(context), Poll::Pending));
    drop(load);
    eventually("it is loaded", || house.states("m") == "1 ready").await;
    // and the start leaves it alone
    house.classifier.load_announced().unwrap();
    assert_eq!(house.loads("m"), [1.0, 0.0]);
}

#[test]
fn a_named_model_must_serve_with_one_version_at_least() {
    let house = House::named(&["m/1", "m/2"]);
    spoil(&house.path("m/2"));
    house.classifier.load_announced().unwrap();
    assert_eq!(house.states("m"), "1 ready, 2 failed");

    let house = House::named(&["m/1", "m/2"]);
    spoil(&house.path("m/1"));
    spoil(&house.path("m/2"));
    let error = house.classifier.load_announced().unwrap_err();
    assert!(
        error.message.contains("version 1: ") && error.message.contains("version 2: "),
        "{error}"
    );
}
