//! Pseudo-random requests of every kind, and what must come of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::client::{Answer, Ask, ImageAnswer};
use super::common::{RED, png_of, process};

/// Codes with the HTTP and the gRPC status that go with them.
const STATUS: [(&str, i32, i32); 6] = [
    ("model_not_found", 404, 5),
    ("body_too_large", 413, 8),
    ("image_too_large", 413, 3),
    ("unsupported_image", 415, 3),
    ("undecodable_image", 422, 3),
    ("invalid_request", 400, 3),
];

/// `--max-image-pixels` and `--max-body-bytes` of the server that gets the mix.
pub const MAX_PIXELS: u32 = 600 * 600;
pub const MAX_BODY: usize = 2 << 20;

/// An image and what the server must say of it.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub bytes: Bytes,
    pub answer: ImageAnswer,
}

/// What a server is sent.
#[derive(Clone, Debug)]
pub struct Corpus {
    pub good: Vec<Sample>,
    pub bad: Vec<Sample>,
}

/// A way to send a request and read its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Raw,
    Form,
    Json,
    Unary,
    Stream,
}

/// A request and its right answer.
#[derive(Clone, Debug)]
pub struct Question {
    pub ask: Ask,
    pub way: Way,
    pub expected: Answer,
}

/// One thing a client does.
#[derive(Clone, Debug)]
pub enum Job {
    Ask(Question),
    /// All on one stream.
    Stream(Vec<Question>),
    /// Closes the connection when half the body is sent.
    LeaveMidBody(Bytes),
    /// Closes the connection when all is sent.
    LeaveHttp(Bytes),
    /// Drops the call when all is sent.
    LeaveGrpc(Bytes),
}

impl Corpus {
    /// Every photo of the test data, whose answers are for the server to say, and what is wrong with images.
    pub fn new() -> Self {
        let sample = |name: &str, bytes: Vec<u8>, code: &str| Sample {
            name: name.to_owned(),
            bytes: bytes.into(),
            answer: Err(code.to_owned()),
        };
        let mut good = Vec::new();
        for folder in ["preprocess", "imaging"] {
            let files = std::fs::read_dir(process::data(folder)).unwrap();
            for path in files.map(|file| file.unwrap().path()) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let is_input = ![".expected.png", ".json", ".md"]
                    .iter()
                    .any(|end| name.ends_with(end));
                if is_input {
                    good.push(sample(&name, std::fs::read(&path).unwrap(), ""));
                }
            }
        }
        // the order of a folder is not the same everywhere
        good.sort_by(|a, b| a.name.cmp(&b.name));
        let photo = |name: &str| std::fs::read(process::data("preprocess").join(name)).unwrap();
        let cut = |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() / 2);
            bytes
        };
        let bad = vec![
            sample(
                "no image",
                b"words, and no image".to_vec(),
                "undecodable_image",
            ),
            sample("cut.jpg", cut(photo("coffee_420.jpg")), "undecodable_image"),
            sample(
                "cut_progressive.jpg",
                cut(photo("coffee_progressive.jpg")),
                "undecodable_image",
            ),
            sample("cut.png", cut(photo("cat_rgb.png")), "undecodable_image"),
            sample("empty", Vec::new(), "undecodable_image"),
            sample("large.png", png_of(RED, 601), "image_too_large"),
            sample(
                "bomb.bmp",
                declared_large(photo("cat.bmp")),
                "image_too_large",
            ),
            sample(
                "a.tiff",
                [b"II*\0".as_slice(), &[0; 64]].concat(),
                "unsupported_image",
            ),
            sample("a.pdf", b"%PDF-1.7 and so on".to_vec(), "unsupported_image"),
        ];
        Self { good, bad }
    }
}

/// The same BMP with a header of 30000 x 30000 pixels.
fn declared_large(mut bmp: Vec<u8>) -> Vec<u8> {
    for side in [18, 22] {
        bmp[side..side + 4].copy_from_slice(&30_000u32.to_le_bytes());
    }
    bmp
}

/// Makes jobs from a seed (splitmix64).
pub struct Mix {
    pub corpus: Arc<Corpus>,
    pub state: u64,
}

impl Mix {
    /// Jobs that are `requests` requests together.
    pub fn jobs(&mut self, requests: usize) -> Vec<Job> {
        let (mut jobs, mut left) = (Vec::new(), requests);
        while left > 0 {
            let job = self.job(left);
            left -= job.requests();
            jobs.push(job);
        }
        jobs
    }

    fn job(&mut self, left: usize) -> Job {
        match self.below(100) {
            0..20 => self.ask(Way::Raw, 1, 0),
            20..30 => self.ask(Way::Form, 2, 1),
            30..38 => self.ask(Way::Json, 2, 1),
            38..52 => self.ask(Way::Unary, 2, 0),
            52..58 => self.ask(Way::Unary, 2, 1),
            58..74 => {
                let way = self.way();
                self.ask(way, 0, 1)
            }
            74..79 => self.other_model(),
            79..83 => self.large(),
            83..87 => Job::LeaveMidBody(self.good().bytes),
            87..91 => Job::LeaveHttp(self.good().bytes),
            91..96 => Job::LeaveGrpc(self.good().bytes),
            _ => {
                let question = |_| {
                    let bad = self.below(2);
                    self.question(Way::Stream, 2, bad)
                };
                Job::Stream((0..left.min(4)).map(question).collect())
            }
        }
    }

    fn ask(&mut self, way: Way, good: usize, bad: usize) -> Job {
        Job::Ask(self.question(way, good, bad))
    }

    /// Up to `good` good images, at least one if it is not 0, and `bad` bad ones, in any order.
    fn question(&mut self, way: Way, good: usize, bad: usize) -> Question {
        let mut samples: Vec<Sample> = Vec::new();
        for _ in 0..good.min(1 + self.below(good.max(1))) {
            samples.push(self.good());
        }
        for _ in 0..bad {
            let place = self.below(samples.len() + 1);
            let sample = loop {
                let which = self.below(self.corpus.bad.len());
                let sample = self.corpus.bad[which].clone();
                // a body of nothing is a request without an image
                if way != Way::Raw || !sample.bytes.is_empty() {
                    break sample;
                }
            };
            samples.insert(place, sample);
        }
        let answers: Vec<ImageAnswer> = samples.iter().map(|s| s.answer.clone()).collect();
        let expected = match answers.iter().all(Result::is_err) {
            true => refusal(way, answers[0].as_ref().unwrap_err()),
            false => Ok(answers),
        };
        let images = samples.into_iter().map(|s| s.bytes).collect();
        let ask = Ask {
            images,
            model: None,
        };
        Question { ask, way, expected }
    }

    fn other_model(&mut self) -> Job {
        let way = self.way();
        let ask = Ask {
            model: Some("nobody"),
            ..Ask::one(self.good().bytes)
        };
        let expected = refusal(way, "model_not_found");
        Job::Ask(Question { ask, way, expected })
    }

    fn large(&mut self) -> Job {
        let way = self.way();
        let ask = Ask::one(vec![b'x'; MAX_BODY + 1]);
        let expected = refusal(way, "body_too_large");
        Job::Ask(Question { ask, way, expected })
    }

    fn good(&mut self) -> Sample {
        let which = self.below(self.corpus.good.len());
        self.corpus.good[which].clone()
    }

    /// Any way that one request can go.
    fn way(&mut self) -> Way {
        [Way::Raw, Way::Form, Way::Json, Way::Unary][self.below(4)]
    }

    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

impl Way {
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Raw | Self::Form | Self::Json => "http",
            Self::Unary | Self::Stream => "grpc",
        }
    }
}

impl Job {
    pub fn requests(&self) -> usize {
        match self {
            Self::Stream(questions) => questions.len(),
            _ => 1,
        }
    }

    pub fn questions(&self) -> &[Question] {
        match self {
            Self::Ask(question) => std::slice::from_ref(question),
            Self::Stream(questions) => questions,
            _ => &[],
        }
    }
}

fn refusal(way: Way, code: &str) -> Answer {
    let found = STATUS.iter().find(|(known, ..)| *known == code);
    let &(_, http, grpc) = found.unwrap_or_else(|| panic!("{code} is not expected"));
    let status = match way {
        Way::Raw | Way::Form | Way::Json => http,
        Way::Unary => grpc,
        Way::Stream => 0,
    };
    Err((status, code.to_owned()))
}

/// What the metrics must count of a mix.
#[derive(Debug, Default)]
pub struct Tally {
    /// By protocol and code, those who left not among them.
    pub requests: BTreeMap<(&'static str, String), u64>,
    /// Images answered with predictions, those of who left not among them.
    pub images: u64,
    /// Images turned away for what they are, and requests for their size, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Requests of one good image whose caller left, by protocol.
    pub left: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn add(&mut self, job: &Job) {
        match job {
            Job::LeaveMidBody(_) | Job::LeaveHttp(_) => *self.left.entry("http").or_default() += 1,
            Job::LeaveGrpc(_) => *self.left.entry("grpc").or_default() += 1,
            Job::Ask(_) | Job::Stream(_) => job.questions().iter().for_each(|q| self.answered(q)),
        }
    }

    fn answered(&mut self, question: &Question) {
        let code = match &question.expected {
            Ok(_) => "ok",
            Err((_, code)) => code,
        };
        let key = (question.way.protocol(), code.to_owned());
        *self.requests.entry(key).or_default() += 1;
        match &question.expected {
            Ok(answers) => answers.iter().for_each(|answer| match answer {
                Ok(_) => self.images += 1,
                Err(code) => self.reject(code),
            }),
            // each kind of bad image is alone in its request
            Err((_, code)) => self.reject(code),
        }
    }

    fn reject(&mut self, code: &str) {
        let reason = match code {
            "body_too_large" | "image_too_large" => "too_large",
            "unsupported_image" | "undecodable_image" => "invalid_image",
            _ => return,
        };
        *self.rejected.entry(reason).or_default() += 1;
    }
}
