//! The table of models: names, states, readiness, and what is refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn models_are_found_by_name_and_state() {
    let house = house(16);
    let error = house.classifier.admit(None, 1).unwrap_err();
    assert_eq!(error.code, Code::ModelNotFound);
    house.classifier.mark_loading("m");
    house.classifier.mark_loading("other");
    let error = house.classifier.admit(None, 1).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.retry_after.is_some());
    house
        .classifier
        .load_model(loaded("m", Fake::instant(colours).0))
        .unwrap();
    house.classifier.mark_failed("other", "no weights");
    let error = house.classifier.admit(Some("other"), 1).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("no weights"), "{error}");
    let error = house.classifier.admit(Some("resnet5000"), 1).unwrap_err();
    assert_eq!(error.code, Code::ModelNotFound);
    assert!(
        error.message.contains("\"resnet5000\"") && error.message.ends_with("served: m"),
        "{error}"
    );
    assert_eq!(house.classifier.admit(None, 1).unwrap().model.name, "m");
    let names: Vec<String> = house
        .classifier
        .models()
        .into_iter()
        .map(|m| m.name)
        .collect();
    assert_eq!(names, ["m", "other"]);

    let model = house.model();
    assert_eq!(
        (model.architecture, model.family, model.depth),
        ("colours7", "colours", 7)
    );
    assert_eq!(model.counts.parameters, 3 * 3 + 3);
    let text = house.metrics.render();
    assert!(
        text.contains(
            r#"resnetd_model_info{depth="7",device="cpu",engine="fake",family="colours""#
        ),
        "{text}"
    );
}

#[test]
fn a_named_default_answers() {
    let house = house_of(16, Some("b"));
    for name in ["a", "b"] {
        house
            .classifier
            .load_model(loaded(name, Fake::instant(colours).0))
            .unwrap();
    }
    assert_eq!(house.classifier.admit(None, 1).unwrap().model.name, "b");
    assert_eq!(
        house.classifier.admit(Some("a"), 1).unwrap().model.name,
        "a"
    );
}

#[test]
fn readiness_waits_for_every_model_and_ends_with_the_drain() {
    let house = house(16);
    let mut changes = house.classifier.subscribe();
    let now = |changes: &mut tokio::sync::watch::Receiver<Readiness>| *changes.borrow_and_update();
    assert_eq!(now(&mut changes), Readiness::Starting);
    for name in ["a", "b", "c"] {
        house.classifier.mark_loading(name);
    }
    house.classifier.mark_failed("c", "broken folder");
    house
        .classifier
        .load_model(loaded("a", Fake::instant(colours).0))
        .unwrap();
    assert!(!house.classifier.is_ready() && !changes.has_changed().unwrap());
    house
        .classifier
        .load_model(loaded("b", Fake::instant(colours).0))
        .unwrap();
    assert!(house.classifier.is_ready());
    assert_eq!(now(&mut changes), Readiness::Ready);
    house.classifier.drain();
    assert!(!house.classifier.is_ready());
    assert_eq!(now(&mut changes), Readiness::Draining);
    assert!(
        house.classifier.admit(None, 1).is_ok(),
        "still answered while draining"
    );
    house
        .classifier
        .load_model(loaded("d", Fake::instant(colours).0))
        .unwrap();
    assert!(
        !house.classifier.is_ready() && !changes.has_changed().unwrap(),
        "draining is final"
    );
}

#[test]
fn a_model_that_cannot_serve_is_refused() {
    let house = house(16);
    house.classifier.mark_loading("m");
    let mut model = loaded("m", Fake::instant(colours).0);
    model.labels.pop();
    let error = house.classifier.load_model(model).unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::Labels {
                classes: 3,
                labels: 2
            }
        ),
        "{error}"
    );
    let mut model = loaded("m", Fake::instant(colours).0);
    model.preprocessing.crop = 9;
    let error = house.classifier.load_model(model).unwrap_err();
    assert!(matches!(error, LoadError::Input { crop: 9, .. }), "{error}");
    let model = loaded("m", Fake::instant(|_, logits| logits.fill(f32::INFINITY)).0);
    let error = house.classifier.load_model(model).unwrap_err();
    assert!(matches!(error, LoadError::NotFinite), "{error}");
    let model = loaded("m", Fake::instant(|_, _| panic!("no kernel for this")).0);
    let error = house.classifier.load_model(model).unwrap_err();
    assert!(error.to_string().contains("no kernel for this"), "{error}");
    assert!(matches!(
        house.classifier.models()[0].versions[0].state,
        ModelState::Loading
    ));
    assert!(!house.classifier.is_ready());
}
