//! Against a local server with the hub's layout: `/REPO/resolve/REVISION/FILE`, small files answered in place, weights
//! by a redirect to another path, ranges, ETags and the commit in a header.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::super::{Config, LoadedModel, ModelSpec, load, timm};
use super::*;
use crate::imaging::{Interpolation, Preprocessing};

const WEIGHTS_FILE: &[u8] = include_bytes!("../../../models/resnet20-cifar10/weights.safetensors");
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CARD: &str = r#"{
    "architecture": "resnet20", "num_classes": 10, "num_features": 64,
    "pretrained_cfg": {
        "tag": "test", "input_size": [3, 32, 32], "test_input_size": [3, 64, 64], "fixed_input_size": false,
        "interpolation": "bicubic", "crop_pct": 0.95, "test_crop_pct": 1.0, "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "num_classes": 10, "first_conv": "conv1", "classifier": "fc"
    }
}"#;

/// What the server answers with, and what it was asked.
#[derive(Default)]
struct State {
    /// By path below the revision.
    files: Vec<(&'static str, Vec<u8>)>,
    token: Option<&'static str>,
    /// Answer with this status and nothing else.
    broken: Option<u16>,
    etag: Option<&'static str>,
    /// `PATH AUTHORIZATION`
    seen: Vec<String>,
}

struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
    cache: tempfile::TempDir,
}

impl Hub {
    fn new(files: &[(&'static str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = files
            .iter()
            .map(|(name, bytes)| (*name, bytes.to_vec()))
            .collect();
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let (shared, base) = (Arc::clone(&state), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared, &base);
            }
        });
        Self {
            address,
            state,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn timm() -> Self {
        Self::new(&[
            ("config.json", CARD.as_bytes()),
            ("model.safetensors", WEIGHTS_FILE),
        ])
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn config(&self) -> HubConfig {
        HubConfig {
            endpoint: Some(format!("{}/", self.address)),
            token: None,
            cache_dir: Some(self.cache.path().to_owned()),
            offline: false,
        }
    }

    fn load(&self, source: &str, hub: HubConfig) -> Result<LoadedModel, RepositoryError> {
        let spec: ModelSpec = format!("net={source}").parse().unwrap();
        let config = Config {
            hub,
            ..Config::default()
        };
        load(&spec, &config)
    }

    fn refusal(&self, source: &str, hub: HubConfig) -> String {
        self.load(source, hub).unwrap_err().to_string()
    }
}

/// One request on one connection.
fn answer(stream: TcpStream, state: &Mutex<State>, base: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut authorization) = (0, String::new());
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                range = value["bytes=".len()..]
                    .split('-')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            }
            "authorization" => authorization = value.to_owned(),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.seen.push(format!("{path} {authorization}"));
    let head = |status: u16, more: &str, length: usize| {
        format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n"
        )
    };
    let mut stream = stream;
    let allowed = state
        .token
        .is_none_or(|token| authorization == format!("Bearer {token}"));
    let refused = state.broken.or((!allowed).then_some(401));
    if let Some(status) = refused {
        return stream.write_all(head(status, "", 0).as_bytes());
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (file, direct) = match parts[..] {
        ["owner", "net", "resolve", "main" | "v1" | COMMIT, file]
        | ["timm", _, "resolve", "main" | COMMIT, file] => (file, file == "config.json"),
        ["cdn", file] => (file, true),
        _ => ("", true),
    };
    let Some((_, bytes)) = state.files.iter().find(|(name, _)| *name == file) else {
        return stream.write_all(head(404, "", 0).as_bytes());
    };
    let etag = state
        .etag
        .map_or_else(|| format!("etag-{}", bytes.len()), str::to_owned);
    if !direct {
        let more = format!(
            "Location: {base}/cdn/{file}\r\nx-linked-etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n"
        );
        return stream.write_all(head(302, &more, 0).as_bytes());
    }
    let rest = &bytes[range.min(bytes.len())..];
    let more = format!(
        "ETag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nContent-Range: bytes {range}-{}/{}\r\n",
        bytes.len() - 1,
        bytes.len()
    );
    stream.write_all(head(206, &more, rest.len()).as_bytes())?;
    // the client asks for one byte and closes when it only wants the headers
    stream.write_all(rest)
}

#[test]
fn a_timm_repository_is_fetched_and_described() {
    let hub = Hub::timm();
    let model = hub.load("hf:owner/net", hub.config()).unwrap();
    assert_eq!(model.name, "net");
    assert_eq!(model.architecture.name, "resnet20");
    assert_eq!(model.version, "0123456789ab");
    assert_eq!(model.labels.len(), 10);
    let expected = crate::imaging::Preprocessing {
        resize: 33,
        crop: 32,
        interpolation: Interpolation::Bicubic,
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.3, 0.4],
    };
    assert_eq!(model.preprocessing, expected);
    let folder = hub
        .cache
        .path()
        .join("models--owner--net/snapshots")
        .join(COMMIT);
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        WEIGHTS_FILE
    );
    // the card at the branch, the weights at the commit that the branch was then
    let seen = hub.state.lock().unwrap().seen.join("\n");
    assert!(
        seen.contains("/owner/net/resolve/main/config.json"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("/owner/net/resolve/{COMMIT}/model.safetensors")),
        "{seen}"
    );
}

#[test]
fn published_weights_are_known_by_their_repository() {
    let describe = |repo: &str, card: &'static str| {
        let files = [
            ("config.json", card.as_bytes()),
            ("model.safetensors", WEIGHTS_FILE),
        ];
        let hub = Hub::new(&files);
        timm::describe(repo, None, &hub.config()).unwrap()
    };
    let tv = "timm/resnet50.tv_in1k";
    let described = describe(tv, r#"{"architecture": "resnet50"}"#);
    assert_eq!(described.preprocessing, Preprocessing::imagenet());
    let mut provenance = described.provenance;
    described.preset.unwrap().complete(&mut provenance);
    let accuracies = (provenance.test_top1, provenance.test_top5);
    assert_eq!(accuracies, (Some(76.156), Some(92.866)));
    let data = provenance.data.unwrap();
    assert_eq!(data, format!("hf:{tv} at commit {COMMIT}"));
    let source = provenance.test_source.unwrap();
    assert!(source.contains("published by timm"), "{source}");

    // the card is right where it says something
    let card = r#"{"architecture": "resnet50", "pretrained_cfg": {"crop_pct": 0.95, "mean": [0.1, 0.2, 0.3]}}"#;
    let expected = Preprocessing {
        resize: 235,
        mean: [0.1, 0.2, 0.3],
        ..Preprocessing::imagenet()
    };
    assert_eq!(describe(tv, card).preprocessing, expected);
    let card = r#"{"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 160, 160]}}"#;
    let smaller = describe(tv, card).preprocessing;
    assert_eq!((smaller.resize, smaller.crop), (182, 160));

    let bicubic = Preprocessing {
        interpolation: Interpolation::Bicubic,
        ..Preprocessing::imagenet()
    };
    for (repo, card) in [
        ("owner/net", r#"{"architecture": "resnet50"}"#),
        (tv, r#"{"architecture": "resnet18"}"#),
    ] {
        let described = describe(repo, card);
        assert!(described.preset.is_none(), "{repo}");
        assert_eq!(described.preprocessing, bicubic);
    }
}

#[test]
fn the_cache_answers_offline_and_when_the_hub_is_gone() {
    let hub = Hub::timm();
    let offline = HubConfig {
        offline: true,
        ..hub.config()
    };
    let text = hub.refusal("hf:owner/net", offline.clone());
    assert!(
        text.contains("not in the cache") && text.contains("HF_HUB_OFFLINE"),
        "{text}"
    );

    hub.load("hf:owner/net", hub.config()).unwrap();
    hub.set(|state| state.seen.clear());
    for source in ["hf:owner/net".to_owned(), format!("hf:owner/net@{COMMIT}")] {
        hub.load(&source, offline.clone()).unwrap();
    }
    assert_eq!(
        hub.state.lock().unwrap().seen,
        [""; 0],
        "offline asks nobody"
    );

    // tcpmux, which nobody runs
    let gone = HubConfig {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..hub.config()
    };
    hub.load("hf:owner/net", gone.clone()).unwrap();
    assert!(
        hub.refusal("hf:owner/other", gone)
            .contains("cannot be used")
    );
    hub.set(|state| state.broken = Some(503));
    hub.load("hf:owner/net", hub.config()).unwrap();
}

#[test]
fn a_second_load_downloads_nothing() {
    let hub = Hub::timm();
    hub.load("hf:owner/net@v1", hub.config()).unwrap();
    hub.set(|state| state.seen.clear());
    hub.load("hf:owner/net@v1", hub.config()).unwrap();
    let seen = hub.state.lock().unwrap().seen.clone();
    assert_eq!(
        seen,
        ["/owner/net/resolve/v1/config.json "],
        "only which commit v1 is now"
    );
}

#[test]
fn pytorch_weights_are_taken_where_there_are_no_others() {
    let hub = Hub::new(&[
        ("config.json", CARD.as_bytes()),
        ("pytorch_model.bin", WEIGHTS_FILE),
    ]);
    hub.load("hf:owner/net", hub.config()).unwrap();
    let hub = Hub::new(&[("config.json", CARD.as_bytes())]);
    let text = hub.refusal("hf:owner/net", hub.config());
    assert!(
        text.contains("no model.safetensors or pytorch_model.bin"),
        "{text}"
    );
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let hub = Hub::timm();
    hub.set(|state| state.token = Some("hf_secret"));
    let text = hub.refusal("hf:owner/net", hub.config());
    assert!(
        text.contains("HTTP 401") && text.contains("HF_TOKEN"),
        "{text}"
    );
    let config = |token: &str| HubConfig {
        token: Some(token.to_owned()),
        ..hub.config()
    };
    let text = hub.refusal("hf:owner/net", config("hf_wrong"));
    assert!(
        text.contains("HTTP 401") && !text.contains("hf_wrong"),
        "{text}"
    );
    hub.load("hf:owner/net", config("hf_secret")).unwrap();
    let debug = format!("{:?}", config("hf_secret"));
    assert!(
        debug.contains("redacted") && !debug.contains("hf_secret"),
        "{debug}"
    );
    // a secret mounted from a file often ends in a newline; one that cannot be a header at all is an error
    hub.load("hf:owner/net", config("hf_secret\n")).unwrap();
    let hub = Hub::timm();
    let broken = HubConfig {
        token: Some("line\nbreak".to_owned()),
        ..hub.config()
    };
    let text = hub.refusal("hf:owner/net", broken);
    assert!(
        text.contains("cannot be used") && !text.contains("break"),
        "{text}"
    );
}

#[test]
fn a_missing_repository_and_odd_answers_are_errors() {
    let hub = Hub::timm();
    let text = hub.refusal("hf:owner/unknown", hub.config());
    assert!(
        text.contains("hf:owner/unknown") && text.contains("no config.json"),
        "{text}"
    );
    for etag in ["../../escape", "/absolute", "W/weak"] {
        hub.set(|state| state.etag = Some(etag));
        let text = hub.refusal("hf:owner/net", hub.config());
        assert!(text.contains("not a hash"), "{etag}: {text}");
    }
}

#[test]
fn a_card_that_cannot_be_served_says_why() {
    for (card, reason) in [
        ("not json".to_owned(), "is not timm's"),
        ("{}".to_owned(), "has no \"architecture\""),
        (CARD.replace("\"resnet20\"", "\"resnet2O\""), "resnet20"),
        (
            CARD.replace("\"resnet20\"", "\"resnet32\""),
            "layer1.3.bn1.bias",
        ),
        (
            CARD.replace("[3, 32, 32]", "[1, 32, 32]"),
            "expected 3 channels",
        ),
        (CARD.replace("[3, 32, 32]", "[3, 32]"), "is not timm's"),
        (CARD.replace("0.95", "0"), "resize is 4294967295"),
        (CARD.replace("0.95", "1e-9"), "resize is"),
        (
            CARD.replace("\"center\"", "\"squash\""),
            "crop_mode \"squash\"",
        ),
        (
            CARD.replace("bicubic", "random"),
            "expected one of `nearest`, `bilinear`",
        ),
        (CARD.replace("[0.2, 0.3, 0.4]", "[0.2, 0, 0.4]"), "std is"),
        (
            CARD.replace(
                "\"architecture\"",
                "\"label_names\": [\"a\", \"b\"], \"architecture\"",
            ),
            "2 labels for 10 classes",
        ),
    ] {
        let hub = Hub::new(&[
            ("config.json", card.as_bytes()),
            ("model.safetensors", WEIGHTS_FILE),
        ]);
        let text = hub.refusal("hf:owner/net", hub.config());
        assert!(text.contains(reason), "{card}: {text}");
    }
}

#[test]
fn a_silent_or_panicking_transfer_is_given_up() {
    let text = supervised(Duration::from_millis(50), |_ticker| {
        std::thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    assert!(text.unwrap_err().contains("sent nothing"));
    let text = supervised::<()>(Duration::from_secs(20), |_ticker| {
        panic!("an assertion of the crate")
    });
    assert!(text.unwrap_err().contains("not one that hf-hub can use"));
    let slow = supervised(Duration::from_secs(20), |ticker| {
        for _ in 0..1000 {
            ticker.tick();
        }
        Ok(7)
    });
    assert_eq!(slow, Ok(7));
}
