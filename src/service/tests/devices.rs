//! A model on several devices: what it is called, what its loss makes of it and of the server.

use super::*;

/// The model `m` on these devices.
fn on(devices: &[&str]) -> (LoadedModel, Vec<Remote>) {
    let engines = devices.iter().map(|device| {
        let (engine, remote) = Fake::instant(colours);
        (Box::new(engine.on(device)) as Box<dyn Engine>, remote)
    });
    let (engines, remotes) = engines.unzip();
    (loaded_on("m", engines), remotes)
}

/// What is wrong with the one version of `m`.
fn failure(house: &House) -> Option<String> {
    let models = house.classifier.models();
    match &models[0].versions[..] {
        [row] => match &row.state {
            ModelState::Failed(reason) => Some(reason.clone()),
            _ => None,
        },
        rows => panic!("{rows:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_serves_until_its_last_device_is_lost() {
    let house = house(16);
    let (model, remotes) = on(&["cuda:0", "cuda:1"]);
    house.classifier.load_model(model).unwrap();
    assert_eq!(house.model().engine.device, "cuda:0,cuda:1");
    for remote in &remotes {
        assert_eq!(remote.batches(), 1, "each is warm");
    }
    let mut changes = house.classifier.subscribe();
    assert_eq!(*changes.borrow_and_update(), Readiness::Ready);
    let lost = |device: &str| {
        let label = format!("device=\"{device}\"");
        house.sample("resnetd_devices_lost_total", &label)
    };
    let workers = |device: &str| house.sample("resnetd_workers", &format!("device=\"{device}\""));
    assert_eq!((lost("cuda:0"), workers("cuda:0")), (0, 1));

    // one of two: nobody notices
    remotes[0].lose();
    while house.load().workers == 2 {
        let reply = house.classify(vec![blue()], LONG).await.unwrap();
        assert_eq!(label(&reply.results[0]), Ok("blue"));
    }
    assert_eq!((lost("cuda:0"), lost("cuda:1")), (1, 0));
    assert!(!changes.has_changed().unwrap() && failure(&house).is_none());

    // the last: the model fails and the server is not ready
    let served = house.model();
    remotes[1].lose();
    let error = house.classify(vec![blue()], LONG).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(*changes.borrow_and_update(), Readiness::Lost);
    assert!(!house.classifier.is_ready());
    let reason = failure(&house).unwrap();
    for device in ["cuda:0 (told to be lost)", "cuda:1 (told to be lost)"] {
        assert!(reason.contains(device), "{reason}");
    }
    let error = house.classifier.admit(Some("m"), 1).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains(&reason), "{error}");
    assert_eq!((lost("cuda:0"), lost("cuda:1")), (1, 1));
    eventually("both have left", || {
        workers("cuda:0") + workers("cuda:1") == 0
    });
    // who found the model before is told as well
    let admission = Admission::new(Arc::clone(&served), 1).unwrap();
    let answer = house
        .classifier
        .infer(admission, request(vec![red()], LONG));
    assert_eq!(answer.await.unwrap_err().code, Code::Unavailable);
    // a loss that comes before the model has its place in the table is not overlooked
    house.classifier.life().models.serve(served);
    assert!(failure(&house).is_some() && !changes.has_changed().unwrap());

    // loaded anew
    let (model, _remotes) = on(&["cuda:0", "cuda:1"]);
    house.classifier.load_model(model).unwrap();
    assert_eq!(*changes.borrow_and_update(), Readiness::Ready);
    let reply = house.classify(vec![blue()], LONG).await.unwrap();
    assert_eq!(label(&reply.results[0]), Ok("blue"));
    assert_eq!(
        (lost("cuda:0"), workers("cuda:0"), workers("cuda:1")),
        (1, 1, 1)
    );
    house.settles();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_model_unloaded_lets_the_others_be_ready() {
    let house = house(16);
    let other = loaded("other", Fake::instant(colours).0);
    house.classifier.load_model(other).unwrap();
    let (model, remotes) = on(&["cuda:0"]);
    house.classifier.load_model(model).unwrap();
    let admission = house.classifier.admit(Some("m"), 1).unwrap();
    remotes[0].lose();
    let answer = house
        .classifier
        .infer(admission, request(vec![red()], LONG));
    assert_eq!(answer.await.unwrap_err().code, Code::Unavailable);
    assert!(house.classifier.admit(Some("other"), 1).is_ok());
    assert!(!house.classifier.is_ready(), "though another serves");
    // what cannot be loaded anew is still lost
    house.classifier.mark_failed("m", "no weights");
    assert!(!house.classifier.is_ready());
    assert!(house.metrics.render().contains("model=\"m\""));
    house.classifier.unload("m").await.unwrap();
    assert!(house.classifier.is_ready());
    assert!(!house.metrics.render().contains("model=\"m\""));
}

#[test]
fn engines_that_do_not_belong_together_are_refused() {
    let house = house(16);
    let refused = |model| house.classifier.load_model(model).unwrap_err().to_string();
    let error = refused(on(&[]).0);
    assert!(error.contains("there must be one"), "{error}");

    let (mut model, _remotes) = on(&["cuda:0"]);
    let (engine, _remote) = Fake::instant(colours);
    let engine = engine.on("cuda:1").in_precision("bf16");
    model.engines.push(Box::new(engine));
    let error = refused(model);
    assert!(error.contains("must differ in nothing"), "{error}");

    let (mut model, _remotes) = on(&["cuda:0"]);
    let (engine, _remote) = Fake::instant(|_, _| panic!("no kernel for this"));
    model.engines.push(Box::new(engine.on("cuda:1")));
    let error = refused(model);
    assert!(
        error.contains("on cuda:1") && error.contains("no kernel"),
        "{error}"
    );
    assert!(house.classifier.models().is_empty());
}

/// Two engines on one device are one device.
#[test]
fn engines_share_a_device() {
    let house = house(16);
    let (model, remotes) = on(&["cuda:0", "cuda:0"]);
    house.classifier.load_model(model).unwrap();
    assert_eq!(house.model().engine.device, "cuda:0");
    assert_eq!(house.sample("resnetd_workers", "device=\"cuda:0\""), 2);
    assert_eq!(remotes.len(), 2);
}
