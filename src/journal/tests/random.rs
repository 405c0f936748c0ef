//! Random records from a seed: every field of every kind of record takes every form that it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::definition::{CatchUp, Definition, Execution, Overlap, RetryPolicy};
use crate::model::id::{BatchName, DefinitionHash, RunId};
use crate::model::input::InputId;
use crate::model::record::{BatchFacts, Disabled, EdgeFacts, InForce, Record, UnusedEnd};
use crate::model::run::{End, Exit, Follow, Given, Input, Outcome, Range, Run, State, StopRequest, Trigger};
use crate::model::time::Instant;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `one_in` times.
    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(2) { None } else { Some(value(self)) }
    }

    /// Small numbers, and the largest that a column holds.
    fn number(&mut self) -> u64 {
        let large = self.next() >> 1;
        let small = self.below(10);
        self.pick(&[0, small, large, i64::MAX as u64])
    }

    fn instant(&mut self) -> Instant {
        let ms = (self.next() >> 20) as i64 - (1 << 42);
        self.pick(&[Instant::from_ms(ms), Instant::MIN, Instant::MAX, Instant::from_ms(0)])
    }

    fn text(&mut self) -> String {
        self.pick(&["", "a", "uid 1000", "it's \"quoted\" \\ %s", "line\nline\ttab \u{1}", "Zoë, 日本 🦀", "NULL"])
            .to_owned()
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.below(3)).map(|_| self.text()).collect()
    }

    fn name(&mut self) -> BatchName {
        super::name(self.pick(&["a", "b", "load-2", "report_x"]))
    }

    fn id(&mut self) -> RunId {
        let number = self.below(40) + 1;
        self.name().run(number)
    }

    fn hash(&mut self) -> DefinitionHash {
        DefinitionHash(std::array::from_fn(|_| self.next() as u8))
    }

    /// A record that may follow on `runs`.
    pub(super) fn record(&mut self, runs: &BTreeMap<RunId, Run>) -> Record {
        match self.below(8) {
            0 => Record::Batch(self.facts()),
            1 => Record::Definition(self.in_force()),
            2 => Record::Edge(self.edge()),
            3 => Record::EdgeRemoved { downstream: self.name(), upstream: self.name() },
            4 => Record::Event { at: self.instant(), text: self.text() },
            _ => Record::Run(Box::new(self.run(runs))),
        }
    }

    fn facts(&mut self) -> BatchFacts {
        BatchFacts {
            name: self.name(),
            next_number: self.number(),
            cursor: self.maybe(Self::instant),
            reboot_boot: self.maybe(Self::text),
            disabled: self.maybe(|random| Disabled {
                until: random.maybe(Self::instant),
                reason: random.maybe(Self::text),
                by: random.text(),
                at: random.instant(),
            }),
        }
    }

    fn edge(&mut self) -> EdgeFacts {
        EdgeFacts {
            downstream: self.name(),
            upstream: self.name(),
            cursor: self.number(),
            unused: self.maybe(|random| UnusedEnd {
                number: random.number(),
                succeeded: random.chance(2),
                due_at: random.instant(),
            }),
        }
    }

    fn in_force(&mut self) -> InForce {
        let batch = self.name();
        let definition = self.maybe(|random| Arc::new(random.definition(batch.clone())));
        InForce { held: definition.is_some() && self.chance(2), batch, definition }
    }

    fn duration(&mut self) -> Duration {
        Duration::from_millis(self.number())
    }

    fn definition(&mut self, name: BatchName) -> Definition {
        Definition {
            name,
            hash: self.hash(),
            description: self.text(),
            tags: self.texts(),
            cron: self.texts(),
            timezone: self.maybe(Self::text),
            after: (0..self.below(3)).map(|_| self.name()).collect(),
            independent: self.chance(2),
            use_previous_output: self.chance(2),
            on_error: (0..self.below(3)).map(|_| self.name()).collect(),
            enabled: self.chance(2),
            hosts: self.texts(),
            execution: Execution {
                script: self.text(),
                include: self.texts(),
                interpreter: self.texts(),
                args: self.texts(),
                env: BTreeMap::from([(self.text(), self.text())]),
                pass_env: self.texts(),
                env_file: self.maybe(Self::text),
                working_dir: self.maybe(Self::text),
                user: self.maybe(Self::text),
                umask: self.next() as u32,
                no_new_privs: self.chance(2),
                timeout: self.maybe(Self::duration),
                stop_grace: self.duration(),
                success_exit_codes: vec![self.next() as u8],
                log_bytes_max: self.number(),
                merge_output: self.chance(2),
            },
            retry: RetryPolicy {
                retries: self.next() as u32,
                delay: self.duration(),
                backoff: self.next() as f64 / 1e17,
                delay_max: self.duration(),
                on_lost: self.chance(2),
            },
            overlap: self.pick(&[Overlap::Skip, Overlap::Queue, Overlap::Allow, Overlap::Replace]),
            catch_up: self.pick(&[CatchUp::Last, CatchUp::None, CatchUp::All]),
            catch_up_within: self.duration(),
            jitter: self.duration(),
            priority: self.next() as i32,
            pool: self.maybe(Self::text),
        }
    }

    /// A new run, or the next thing that happens to one that has not ended.
    fn run(&mut self, runs: &BTreeMap<RunId, Run>) -> Run {
        let id = self.id();
        let mut run = self.any_run(id);
        let Some(known) = runs.get(&run.id) else { return run };
        if known.end().is_some() {
            return known.clone();
        }
        run.chain = known.chain.clone();
        (run.trigger, run.attempt) = (known.trigger, known.attempt);
        (run.due_at, run.queued_at) = (known.due_at, known.queued_at);
        run
    }

    fn any_run(&mut self, id: RunId) -> Run {
        let trigger = self.pick(Trigger::ALL);
        Run {
            chain: self.id(),
            pass: self.next() as u32,
            follow: self.pick(Follow::ALL),
            trigger,
            attempt: self.next() as u32 % 3,
            previous: self.maybe(Self::id),
            state: self.state(),
            // One instant for each number: an occurrence is decided once.
            // Of a boot now and then.
            due_at: Instant::from_ms(
                id.number as i64 * 1_000_000_000 + if id.number.is_multiple_of(4) { 7 } else { 0 },
            ),
            start_at: self.maybe(Self::instant),
            queued_at: self.instant(),
            queue_position: self.number().min(u64::from(u32::MAX)),
            joining: self.chance(2),
            caught_up: self.chance(2),
            priority: self.next() as i32,
            pool: self.maybe(Self::text),
            upstreams: (0..self.below(3)).map(|_| self.id()).collect(),
            definition: self.maybe(Self::hash),
            boot: self.maybe(Self::text),
            starting_at: self.maybe(Self::instant),
            started_at: self.maybe(Self::instant),
            started_by: self.maybe(|random| format!("uid {}", random.next())),
            remark: self.maybe(Self::text),
            stop: self.maybe(|random| StopRequest { by: random.text(), reason: random.text(), at: random.instant() }),
            given: Given {
                args: self.texts(),
                env: (0..self.below(2)).map(|_| (self.text(), self.text())).collect(),
                input: self.maybe(|random| match random.below(3) {
                    0 => Input::Run(random.id()),
                    1 => Input::Stored(InputId::of_random(random.next().into())),
                    _ => Input::File(random.text()),
                }),
            },
            range: self.maybe(|random| Range {
                from: random.instant(),
                count: random.number(),
                at_least: random.chance(2),
            }),
            id,
        }
    }

    fn state(&mut self) -> State {
        match self.below(4) {
            0 => State::Queued,
            1 => State::Starting,
            2 => State::Running,
            _ => State::Ended(End {
                outcome: self.pick(Outcome::ALL),
                reason: self.maybe(Self::text),
                at: self.instant(),
                exit: self.maybe(Self::exit),
            }),
        }
    }

    fn exit(&mut self) -> Exit {
        Exit {
            exit_code: self.maybe(|random| random.next() as u8),
            signal: self.maybe(|random| random.next() as i32),
            stdout_bytes: self.number(),
            stdout_dropped_bytes: self.number(),
            stderr_bytes: self.number(),
            stderr_dropped_bytes: self.number(),
            cpu_user_ms: self.number(),
            cpu_system_ms: self.number(),
            memory_bytes_max: self.number(),
            left_running: self.next() as u32,
            remarks: self.maybe(|random| format!("remark {}", random.next())).into_iter().collect(),
        }
    }
}
