//! A caller that speaks every form of both protocols and makes one kind of answer of them.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::multipart::{Form, Part};
use resnetd::server::pb::classifier_client::ClassifierClient;
use resnetd::server::pb::{
    self, ClassifyRequest, classify_stream_response as stream_response, image_result,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

/// Classes and their probabilities, most probable first, or the code of an error.
pub type ImageAnswer = Result<Vec<(u64, f64)>, String>;

/// An answer for each image, or the status (HTTP's or gRPC's number) and code of an error.
pub type Answer = Result<Vec<ImageAnswer>, (i32, String)>;

/// A request as its sender thinks of it.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub images: Vec<Bytes>,
    /// `None`: the default.
    pub model: Option<&'static str>,
}

/// Longer than the server lets a request take; a caller that waits this long fails.
const HANG: Duration = Duration::from_secs(200);

/// One caller with its own connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    grpc: ClassifierClient<Channel>,
}

impl Ask {
    pub fn one(image: impl Into<Bytes>) -> Self {
        Self {
            images: vec![image.into()],
            model: None,
        }
    }
}

impl Client {
    pub fn new(http: SocketAddr, grpc: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).unwrap();
        Self {
            http: reqwest::Client::new(),
            url: format!("http://{http}/classify"),
            grpc: ClassifierClient::new(endpoint.connect_lazy()),
        }
    }

    /// The image as it is.
    pub async fn raw(&self, ask: Ask) -> Answer {
        let image = ask.images.into_iter().next().unwrap();
        self.post(ask.model, |request| request.body(image)).await
    }

    pub async fn form(&self, ask: Ask) -> Answer {
        let mut form = Form::new();
        for image in ask.images {
            let length = image.len() as u64;
            let part = Part::stream_with_length(image, length).file_name("image");
            form = form.part("file", part);
        }
        self.post(ask.model, |request| request.multipart(form))
            .await
    }

    pub async fn json(&self, ask: Ask) -> Answer {
        let images = ask.images.iter();
        let images: Vec<Value> = images.map(|i| json!({"b64": STANDARD.encode(i)})).collect();
        self.post(ask.model, |request| {
            request.json(&json!({"images": images}))
        })
        .await
    }

    async fn post(
        &self,
        model: Option<&str>,
        with_body: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Answer {
        let query = model.map_or(String::new(), |model| format!("?model={model}"));
        let request = self.http.post(format!("{}{query}", self.url));
        let response = within(with_body(request).send()).await.unwrap();
        let status = i32::from(response.status().as_u16());
        let body: Value = response.json().await.unwrap();
        if status != 200 {
            return Err((status, text(&body["code"])));
        }
        let results = body["results"].as_array().unwrap();
        Ok(results.iter().map(of_json).collect())
    }

    pub async fn unary(&self, ask: Ask) -> Answer {
        let mut client = self.grpc.clone();
        match within(client.classify(message(ask, String::new()))).await {
            Ok(response) => Ok(of_response(response.into_inner())),
            Err(status) => {
                let code = status.metadata().get("resnetd-code");
                let code = code.unwrap_or_else(|| panic!("{status:?}")).to_str();
                Err((status.code().into(), code.unwrap().to_owned()))
            }
        }
    }

    /// Sends all on one stream; answers in the order of the requests. An error's status is 0: a stream has none.
    pub async fn stream(&self, asks: Vec<Ask>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; asks.len()];
        let messages = asks.into_iter().enumerate();
        let messages: Vec<_> = messages
            .map(|(i, ask)| message(ask, i.to_string()))
            .collect();
        let mut client = self.grpc.clone();
        let stream = client.classify_stream(tokio_stream::iter(messages));
        let mut stream = stream.await.unwrap().into_inner();
        while let Some(answer) = within(stream.next()).await {
            let answer = answer.unwrap();
            let slot = &mut answers[answer.id.parse::<usize>().unwrap()];
            assert!(slot.is_none(), "two answers to request {}", answer.id);
            *slot = Some(match answer.result.unwrap() {
                stream_response::Result::Response(response) => Ok(of_response(response)),
                stream_response::Result::Error(error) => Err((0, error.code)),
            });
        }
        answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .collect()
    }
}

/// Waits for something that must come.
pub async fn within<T>(coming: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(HANG, coming).await;
    waited.expect("the server does not answer")
}

pub fn message(ask: Ask, id: String) -> ClassifyRequest {
    ClassifyRequest {
        images: ask.images,
        model: ask.model.unwrap_or_default().to_owned(),
        id,
        ..Default::default()
    }
}

fn of_json(result: &Value) -> ImageAnswer {
    let Some(predictions) = result["predictions"].as_array() else {
        return Err(text(&result["code"]));
    };
    let pair = |p: &Value| {
        (
            p["class"].as_u64().unwrap(),
            p["probability"].as_f64().unwrap(),
        )
    };
    Ok(predictions.iter().map(pair).collect())
}

fn of_response(response: pb::ClassifyResponse) -> Vec<ImageAnswer> {
    let result = |result: pb::ImageResult| match result.result.unwrap() {
        image_result::Result::Predictions(list) => {
            let pair = |p: pb::Prediction| (u64::from(p.class), f64::from(p.probability));
            Ok(list.predictions.into_iter().map(pair).collect())
        }
        image_result::Result::Error(error) => Err(error.code),
    };
    response.results.into_iter().map(result).collect()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}
