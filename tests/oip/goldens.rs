//! Logits of torchvision, timm and the reference CIFAR nets through `infer`, each model served with the input size of its
//! golden: over HTTP and gRPC, image by image and as one batch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use resnetd::engine::{EngineOptions, select};
use resnetd::families::{self, Architecture};
use resnetd::imaging::Preprocessing;
use resnetd::ir::Shape;
use resnetd::repository::{LoadedModel, Provenance};
use resnetd::weights::{Generator, Parameters};
use safetensors::SafeTensors;
use serde_json::json;

use super::common::{TestServer, config};
use super::*;

/// max|d| / max|logit|.
const TOLERANCE: f64 = 1e-4;

#[derive(serde::Deserialize)]
struct Golden {
    input: [usize; 4],
    seed: u64,
    bn_weight: [f64; 2],
}

impl Golden {
    /// The architecture with generated weights, for images of the golden's size.
    fn model(&self, architecture: &'static Architecture) -> LoadedModel {
        let [_, channels, height, width] = self.input;
        let shape = Shape::new(channels, height, width);
        let graph = Arc::new((architecture.build)(shape, architecture.classes).unwrap());
        let source = Generator::new(&graph, self.seed, self.bn_weight);
        let parameters = Parameters::load(&graph, &source).unwrap();
        let engines = select(&graph, parameters, &EngineOptions::default()).unwrap();
        LoadedModel {
            name: "golden".into(),
            version: "1".into(),
            architecture,
            labels: (0..graph.classes())
                .map(|class| class.to_string())
                .collect(),
            preprocessing: Preprocessing {
                resize: height as u32,
                crop: height as u32,
                ..Preprocessing::imagenet()
            },
            provenance: Provenance::default(),
            engines,
            graph,
        }
    }
}

async fn by_http(server: &TestServer, shape: [usize; 4], images: &[f32]) -> Vec<f32> {
    let raw = le_bytes(images);
    let header = json!({
        "inputs": [{
            "name": "input",
            "datatype": "FP32",
            "shape": shape,
            "parameters": {"binary_data_size": raw.len()},
        }],
        "outputs": [{"name": "logits", "parameters": {"binary_data": true}}],
    });
    let header = header.to_string().into_bytes();
    let length = header.len().to_string();
    let headers = [(HEADER_LENGTH, length.as_str())];
    let answer = post(server, "golden", &headers, [header, raw].concat()).await;
    let (json, binary) = parts(answer).await;
    assert_eq!(json["outputs"][0]["shape"][0], json!(shape[0]));
    floats(&binary)
}

async fn by_grpc(server: &TestServer, shape: [usize; 4], images: &[f32]) -> Vec<f32> {
    let mut client = grpc(server).await;
    let shape = shape.map(|size| size as i64);
    let request = raw_request("golden", "FP32", &shape, le_bytes(images));
    let answer = client.model_infer(request).await.unwrap().into_inner();
    let logits = answer.outputs.iter().position(|o| o.name == "logits");
    floats(&answer.raw_output_contents[logits.unwrap()])
}

fn check(what: &str, logits: &[f32], expected: &[f32]) {
    assert_eq!(logits.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(0.0f64, |m, &x| m.max(f64::from(x).abs()));
    let apart = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).abs();
    let error = logits.iter().zip(expected).map(apart).fold(0.0, f64::max) / largest;
    assert!(error <= TOLERANCE, "{what}: {error:.2e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_matches_through_infer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let list = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
    let list: BTreeMap<String, Golden> = serde_json::from_str(&list).unwrap();
    let file = std::fs::read(folder.join("goldens.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for (name, golden) in &list {
        let architecture = families::find(name).expect(name);
        let server = TestServer::loading(config()).await;
        let model = golden.model(architecture);
        let input = Generator::input(golden.seed, golden.input[0], model.graph.input());
        server.classifier.load_model(model).unwrap();
        let expected = floats(file.tensor(&format!("{name}.logits")).unwrap().data());

        let [batch, channels, height, width] = golden.input;
        let whole = golden.input;
        check(
            &format!("{name}, HTTP"),
            &by_http(&server, whole, &input).await,
            &expected,
        );
        check(
            &format!("{name}, gRPC"),
            &by_grpc(&server, whole, &input).await,
            &expected,
        );
        let one = [1, channels, height, width];
        let images = input.chunks_exact(input.len() / batch);
        for (image, expected) in images.zip(expected.chunks_exact(expected.len() / batch)) {
            let what = format!("{name}, one image");
            check(&what, &by_http(&server, one, image).await, expected);
            check(&what, &by_grpc(&server, one, image).await, expected);
        }
    }
    assert_eq!(list.len(), 30);
}
