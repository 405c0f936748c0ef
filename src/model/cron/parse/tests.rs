//! What is read as the same, and what is said of what can't be read.

use super::*;

#[test]
fn what_means_the_same() {
    let check = |one: &str, other: &str| {
        assert!(expression(one).is_ok(), "{one}: {:?}", expression(one));
        assert_eq!(expression(one), expression(other), "{one} and {other}");
    };
    check("0 0 * * 0", "0 0 * * 7");
    check("0 0 * * 0", "@weekly");
    check("@Midnight", "  0\t0  * * *\n");
    check("@daily", "0 0 0 * * *");
    check("@yearly", "@annually");
    check("0 0 * * sun-Tue", "0 0 * * 0,1,2");
    check("0 0 * * FRI-MON", "0 0 * * 5,6,0,1");
    check("0 0 * * 5-7", "0 0 * * 0,5,6");
    check("0 0 * * 7-2", "0 0 * * 0-2");
    check("0 0 * * 7-7", "0 0 * * 0");
    check("0 0 1 * 0-7", "0 0 1 * 0-6");
    check("0 0 * * 1-7/2", "0 0 * * 1,3,5,7");
    check("0 0 * NOV-FEB *", "0 0 * 1,2,11,12 *");
    check("0 22-4/2 * * *", "0 0,2,4,22 * * *");
    check("5/15 * * * *", "05,20,35,50 * * * *");
    check("0 0 25-5/5 * *", "0 0 25,30,4 * *");
    check("0 0 l-3,lw,15w * friL", "0 0 L-3,WL,15W * 5L");
    check("0 0 * * 7#2", "0 0 * * SUN#2");
}

/// The text with the span in brackets, and what is said about it.
fn shown(text: &str) -> String {
    let error = expression(text).unwrap_err();
    let Range { start, end } = error.span;
    let marked = format!("{}[{}]{}", &text[..start], &text[start..end], &text[end..]);
    format!("{marked}: {}; {}", error.what, error.hint.unwrap_or_else(|| "-".to_owned()))
}

#[test]
fn what_is_wrong_with_a_field() {
    let check = |text: &str, expected: &str| assert_eq!(shown(text), expected);
    check("60 * * * *", "[60] * * * *: minute: 60 is out of range; minute is 0 to 59");
    check("0 99999999999 * * *", "0 [99999999999] * * *: hour: 99999999999 is out of range; hour is 0 to 23");
    check(
        "0 0 0 * *",
        &format!("0 0 [0] * *: day of month: 0 is out of range; day of month is 1 to 31; {ONE_TOO_FEW}"),
    );
    check(
        "0 0 * 1,13 *",
        &format!("0 0 * 1,[13] *: month: 13 is out of range; month is 1 to 12, or JAN to DEC; {ONE_TOO_FEW}"),
    );
    check(
        "0 0 * * MON-8",
        "0 0 * * MON-[8]: day of week: 8 is out of range; day of week is 0 to 7, or SUN to SAT (0 and 7 are Sunday)",
    );
    check("0 0 ? * *", "0 0 [?] * *: day of month: `?` is not a value; write `*` for any value");
    check("H 0 * * *", "[H] 0 * * *: minute: `H` is not a value; to spread batches over time, use `jitter`");
    check("0~30 0 * * *", "[0~30] 0 * * *: minute: `0~30` is not a value; to spread batches over time, use `jitter`");
    check(
        "0 0 * * L",
        "0 0 * * [L]: day of week: `L` is not a value; write `5L` for the last Friday of the month, `6` for Saturday; `L` alone belongs in day of month",
    );
    check("1,,2 * * * *", "1,[],2 * * * *: minute: a value is missing at a comma; -");
    check("1- * * * *", "1-[] * * * *: minute: a value is missing; minute is 0 to 59");
    check("*/0 * * * *", "*/[0] * * * *: minute: the step is 0; write a step of 1 or more");
    check(
        "*/90 * * * *",
        "*/[90] * * * *: minute: a step of 90 is longer than the field; write at most 59 here; steps count within one field, from 0",
    );
    check("*/x * * * *", "*/[x] * * * *: minute: `x` is not a step; write a whole number, as in `*/5`");
    check(
        "0 0 L-31 * *",
        "0 0 [L-31] * *: day of month: `L-31` needs a number from 1 to 30 after `L-`; `L-3` is the third day before the last of the month",
    );
    check(
        "0 0 * * 5#6",
        "0 0 * * [5#6]: day of week: `5#6` needs a number from 1 to 5 after `#`; `5#3` is the third Friday of the month, `5L` the last",
    );
    check(
        "0 0 * * ä",
        "0 0 * * [ä]: day of week: `ä` is not a value; day of week is 0 to 7, or SUN to SAT (0 and 7 are Sunday)",
    );
}

#[test]
fn a_field_more_or_less_is_suspected() {
    let check = |text: &str, expected: Option<&str>| {
        let hint = expression(text).unwrap_err().hint.unwrap_or_default();
        let found = [ONE_TOO_FEW, ONE_TOO_MANY].into_iter().find(|suspicion| hint.contains(suspicion));
        assert_eq!(found, expected, "{text}: {hint}");
    };
    check("0 30 2 * *", Some(ONE_TOO_FEW));
    check("30 2 * * * x", Some(ONE_TOO_MANY));
    check("30 2 * mon * *", None);
    check("30 2 1 * mon *", Some(ONE_TOO_MANY));
    // Wrong either way.
    check("0 60 2 * *", None);
    check("0 60 2 * * *", None);
}

#[test]
fn what_is_wrong_with_the_whole() {
    let check = |text: &str, expected: &str| assert_eq!(shown(text), expected);
    check("", "[]: the cron expression is empty; write five fields, such as `30 2 * * *`, or `@daily`");
    check(
        "* * *",
        "[* * *]: found 3 fields; a cron expression has 5, or 6 with seconds first; write minute, hour, day of month, month and day of week, separated by spaces",
    );
    check(
        "0 0 12 * * ? 2026",
        "[0 0 12 * * ? 2026]: found 7 fields; a cron expression has 5, or 6 with seconds first; there is no year field; remove the last field",
    );
    check(
        "0 5 * * * root /usr/bin/backup",
        "0 5 * * * [root /usr/bin/backup]: `root /usr/bin/backup` is not part of the time; write `cron = \"0 5 * * *\"`, and put the command of the crontab line in the script",
    );
    check(
        "@fortnightly",
        "[@fortnightly]: unknown form `@fortnightly`; the forms are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually and @reboot",
    );
    check("@every 5m", "[@every] 5m: unknown form `@every`; write it as fields: every 5 minutes is `*/5 * * * *`");
    check(
        "@daily backup.sh",
        "@daily [backup.sh]: unexpected `backup.sh` after `@daily`; write only the time here; the script has the commands",
    );
    check(
        "CRON_TZ=Europe/Berlin 0 5 * * *",
        "[CRON_TZ=Europe/Berlin] 0 5 * * *: `CRON_TZ=Europe/Berlin` is not part of a cron expression; write `timezone = \"Europe/Berlin\"` on a line of its own",
    );
    assert!(expression(&"1,".repeat(EXPRESSION_BYTES_MAX)).is_err());
}

#[test]
fn what_never_fires() {
    let hint = "months have at most 31 days, February 29; if one day field begins with `*`, both must match";
    assert_eq!(
        shown("0 0 30 2 *"),
        format!("0 0 [30 2 *]: never matches: day of month `30`, month `2`, day of week `*`; {hint}")
    );
    for never in ["0 0 31 4 *", "0 0 31 2,4,6,9,11 *", "0 0 31W 6 *", "0 0 L-30 4 *", "0 0 */30 2 1#2"] {
        assert!(expression(never).is_err(), "{never}");
    }
    for rare in ["0 0 29 2 *", "0 0 31 2 5", "0 0 L-28 2 *", "0 0 * 2 1#5", "0 0 */28 2 0"] {
        assert!(expression(rare).is_ok(), "{rare}");
    }
    assert_eq!(expression("@REBOOT"), Ok(Expression::Reboot));
}
