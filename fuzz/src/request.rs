//! Bodies of `POST /v1/acts`: each that can be read is answered, once, by a scheduler that goes on; what it starts can be
//! started; and it comes back as it was when it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use batchd::load::{self, Context, Input};
use batchd::model::files::{FileContent, Files};
use batchd::model::graph::Graph;
use batchd::model::id::{BatchName, JournalId};
use batchd::model::input::InputId;
use batchd::model::record::Recovered;
use batchd::model::request::Request;
use batchd::model::time::Instant;
use batchd::scheduler::{Effect, Event, Scheduler};

/// A chain with all that a request may meet.
const BATCHES: [(&str, &str); 5] = [
    ("load", "on_error = 'alert'"),
    ("report", "after = 'load'\nuse_previous_output = true"),
    ("alert", ""),
    ("off", "enabled = false"),
    ("many", "overlap = 'allow'\nretries = 1"),
];

static GRAPH: LazyLock<Arc<Graph>> = LazyLock::new(|| {
    let (settings, _) = load::settings("batchd.toml", b"", &|_| Ok(()));
    let context = Context { settings: &settings, host: "host", batches: "batches.d", zone_known: &|_| Ok(()) };
    let script = FileContent { bytes: b"true\n".to_vec(), mode: 0o644 };
    let files = Files([("script.sh".to_owned(), script)].into());
    let loaded = BATCHES.map(|(name, toml)| {
        let name = BatchName::new(name).expect("a good name");
        let toml = Some(toml.as_bytes());
        let input = Input { name: &name, toml, files: &files, zip: None, missing_includes: &[] };
        Arc::new(load::definition(&input, &context))
    });
    let fitted = load::fit(&loaded, &BTreeMap::new(), &settings, &|_| Ok((None, false)));
    assert_eq!(fitted.graph.len(), BATCHES.len(), "{:?}", fitted.diagnostics);
    Arc::new(fitted.graph)
});

/// Whatever input it names is there.
fn sent_along(request: &Request) -> BTreeSet<InputId> {
    match request {
        Request::Start { given, .. } => given.stored_input().cloned().into_iter().collect(),
        _ => BTreeSet::new(),
    }
}

pub(crate) fn check(body: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(body) else { return };
    let written = serde_json::to_vec(&request).expect("it is plain data");
    assert_eq!(serde_json::from_slice::<Request>(&written).expect("what was written can be read"), request);

    let now = Instant::from_s(1_800_000_000);
    let recovered = Recovered::empty(JournalId("fuzzed".to_owned()));
    let mut scheduler = Scheduler::recover(recovered, Arc::new(Graph::default()), "boot".to_owned());
    scheduler.handle(now, Event::Begin(Arc::clone(&GRAPH)), &mut Vec::new());
    for id in [1, 2] {
        let mut effects = Vec::new();
        let by = "uid 1000".to_owned();
        let (request, inputs) = (request.clone(), sent_along(&request));
        let asked = Event::Request { id, by, request, history: Vec::new(), inputs };
        scheduler.handle(now, asked, &mut effects);
        let replies = effects.iter().filter(|effect| matches!(effect, Effect::Reply { id: of, .. } if *of == id));
        assert_eq!(replies.count(), 1, "{body:?}");
        assert!(scheduler.next_wakeup().is_none_or(|at| at > now));
        for effect in &effects {
            if let Effect::Start { run, .. } = effect {
                assert!(run.given.env.keys().all(|name| !name.contains(['=', '\0']) && !name.starts_with("BATCHD_")));
            }
        }
    }
}
