//! Engines that find the best themselves.

use super::*;

fn ranking() -> (Arc<House>, Remote) {
    let (engine, remote) = Fake::instant(colours);
    let house = house(16);
    let loaded = loaded("m", engine.ranking());
    house.classifier.load_model(loaded).unwrap();
    (house, remote)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_that_an_engine_finds_are_those_of_its_logits() {
    let images = vec![red(), png([9, 99, 200], 9), png([255; 3], 9), blue()];
    let ((all, _all), (best, remote)) = (instant(), ranking());
    let warm_up = remote.batches();
    let from_logits = all.classify(images.clone(), LONG).await.unwrap();
    let from_best = best.classify(images, LONG).await.unwrap();
    let told = |reply: Reply| {
        let labels = reply.model.labels.clone();
        let told = move |result: Result<Scores, Error>| -> Result<_, (Code, String)> {
            let scores = result.map_err(|error| (error.code, error.message))?;
            Ok(scores.predictions(&labels, 2))
        };
        reply.results.into_iter().map(told).collect::<Vec<_>>()
    };
    let (from_logits, from_best) = (told(from_logits), told(from_best));
    assert_eq!(from_best, from_logits);
    assert_eq!(from_best[2].as_ref().unwrap_err().0, Code::Internal);
    assert_eq!(from_best[3].as_ref().unwrap()[0].label, "blue");
    let wanted = remote.record.wanted.lock().unwrap();
    assert!(wanted.len() > warm_up);
    assert!(wanted[..warm_up].iter().all(|&of| of == Wanted::Logits));
    assert!(wanted[warm_up..].iter().all(|&of| of == Wanted::Best(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_logits_has_them_of_any_engine() {
    let (house, remote) = ranking();
    let request = Request {
        wanted: Wanted::Logits,
        ..request(vec![red()], LONG)
    };
    let admission = house.classifier.admit(None, 1).unwrap();
    let reply = house.classifier.infer(admission, request).await.unwrap();
    let scores = reply.results[0].as_ref().unwrap();
    assert_eq!(scores.logits().unwrap().len(), 3);
    assert_eq!(scores.top(1), [0]);
    assert_eq!(
        remote.record.wanted.lock().unwrap().last(),
        Some(&Wanted::Logits)
    );

    let reply = house.classify(vec![red()], LONG).await.unwrap();
    let scores = reply.results[0].as_ref().unwrap();
    assert_eq!(scores.logits().unwrap_err().code, Code::Internal);
}
