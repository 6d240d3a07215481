//! `ClassifyStream`.

use super::*;

#[tokio::test]
async fn a_stream_answers_each_as_it_finishes_and_all_before_it_ends() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let (sender, mut answers) = stream(&mut client).await;
    let pair = |id: &str, what: &str| (id.to_owned(), what.to_owned());
    server.engine.hold();
    sender.send(tagged("a", png(GREEN))).await.unwrap();
    eventually("the first is classified", || server.engine.executed() == 1).await;
    sender.send(tagged("b", b"x".to_vec())).await.unwrap();
    assert_eq!(
        next(&mut answers).await,
        pair("b", "undecodable_image"),
        "overtakes"
    );
    sender
        .send(ClassifyRequest {
            model: "other".into(),
            ..tagged("caf\u{e9}", png(RED))
        })
        .await
        .unwrap();
    assert_eq!(
        next(&mut answers).await,
        pair("caf\u{e9}", "model_not_found")
    );
    sender.send(tagged("d", png(BLUE))).await.unwrap();
    drop(sender);
    eventually("both are admitted", || server.admitted() == 2).await;
    server.engine.release();
    let mut rest = [next(&mut answers).await, next(&mut answers).await];
    rest.sort();
    assert_eq!(rest, [pair("a", "green"), pair("d", "blue")]);
    assert!(answers.next().await.is_none(), "ends well");

    // more than are in flight at once
    let many = tokio_stream::iter((0..200).map(|i| tagged(&format!("{i}"), b"x".to_vec())));
    let answers = client.classify_stream(many).await.unwrap().into_inner();
    let mut ids: Vec<String> = answers.map(|answer| answer.unwrap().id).collect().await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_stream_after_what_came_before() {
    let server = TestServer::start().await;
    let mut client = client(&server).await;
    let (sender, mut answers) = stream(&mut client).await;
    sender.send(tagged("a", png(GREEN))).await.unwrap();
    sender.send(tagged("b", vec![0; 300 << 10])).await.unwrap();
    assert_eq!(next(&mut answers).await.0, "a");
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::ResourceExhausted, "body_too_large".into())
    );
}

#[tokio::test]
async fn a_stream_of_an_old_connection_answers_what_it_has_read_and_ends() {
    let server = TestServer::with(Config {
        max_connection_age: Some(Duration::from_millis(300)),
        drain_timeout: Duration::from_secs(600),
        ..config()
    })
    .await;
    let mut client = client(&server).await;
    server.engine.hold();
    let (sender, mut answers) = stream(&mut client).await;
    sender.send(tagged("a", png(GREEN))).await.unwrap();
    eventually("the image is classified", || server.engine.executed() == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.engine.release();
    assert_eq!(next(&mut answers).await.1, "green");
    let end = tokio::time::timeout(PATIENCE, answers.next()).await;
    let status = end.expect("the stream ends").unwrap().unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (Code::Unavailable, "unavailable".into())
    );
}
