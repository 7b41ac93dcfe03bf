//! Prints the state of a daemon as text.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::administration::{ClientStatus, ServiceStatus, Status};

/// Formats the services and their clients.
pub(super) fn status(status: &Status) -> String {
    let mut text = heading(status);
    for service in &status.services {
        text.push('\n');
        text.push_str(&service_heading(service));
        let rows = service.clients.iter().map(|client| {
            let activity = [duration(age(client.since)), client.calls.to_string()];
            row(client, activity)
        });
        let titles = [
            "ID",
            "PID",
            "CLIENT",
            "USER",
            "PROFILE",
            "MODULE",
            "SINCE",
            "CALLS",
            "NOW",
            "LAST CALL",
        ];
        text.push_str(&columns(&titles, rows));
    }
    text
}

/// Formats the clients, those with the highest rate of calls first. `before` has the number of calls that each had made
/// an `interval` ago.
pub(super) fn top(status: &Status, before: &HashMap<usize, u64>, interval: Duration) -> String {
    let rate = |client: &ClientStatus| {
        let before = before.get(&client.id).copied().unwrap_or(client.calls);
        let calls = client.calls.saturating_sub(before);
        calls as f64 / interval.as_secs_f64()
    };
    let services = status.services.iter();
    let mut clients: Vec<&ClientStatus> = services.flat_map(|service| &service.clients).collect();
    clients.sort_by(|one, other| {
        rate(other)
            .total_cmp(&rate(one))
            .then(one.id.cmp(&other.id))
    });
    let rows = clients
        .into_iter()
        .map(|client| row(client, [format!("{:.1}", rate(client))]));
    let titles = [
        "ID",
        "PID",
        "CLIENT",
        "USER",
        "PROFILE",
        "MODULE",
        "CALLS/S",
        "NOW",
        "LAST CALL",
    ];
    heading(status) + &columns(&titles, rows)
}

fn heading(status: &Status) -> String {
    let drains = if status.drains { ", draining" } else { "" };
    format!(
        "pkcs11proxyd {}, process {}, running for {}{drains}\n",
        printable(&status.version),
        status.pid,
        duration(age(status.since))
    )
}

fn service_heading(service: &ServiceStatus) -> String {
    format!(
        "{}: {} clients, {} workers of {} at most, {} waiting for a client\n",
        printable(&service.name),
        service.clients.len(),
        service.workers,
        service.max_workers,
        service.idle
    )
}

/// Returns a client's row: who it is, its `activity`, its calls in flight, and its last call.
fn row<const N: usize>(client: &ClientStatus, activity: [String; N]) -> Vec<String> {
    let mut row = identity(client);
    row.extend(activity);
    row.extend([client.in_flight.to_string(), last_call(client)]);
    row
}

fn identity(client: &ClientStatus) -> Vec<String> {
    let known = |text: &str| match text {
        "" => "-".to_owned(),
        text => printable(text),
    };
    vec![
        client.id.to_string(),
        client.pid.to_string(),
        known(&client.peer),
        known(&client.user),
        known(&client.profile),
        known(&client.module),
    ]
}

fn last_call(client: &ClientStatus) -> String {
    match client.last_call.as_str() {
        "" => "-".to_owned(),
        name => {
            let ago = Duration::try_from_secs_f64(client.idle).unwrap_or_default();
            format!("{} {} ago", printable(name), duration(ago))
        }
    }
}

/// Returns how long ago a time was, which is given in seconds since 1970.
fn age(since: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
        .saturating_sub(Duration::from_secs(since))
}

/// Formats a duration in its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Escapes control characters in a text from a client's certificate or a worker, so that it stays on one line and a
/// terminal does not interpret it.
pub(super) fn printable(text: &str) -> String {
    let escape = |character: char| match character {
        character if character.is_control() => character.escape_default().to_string(),
        character => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Formats rows in columns as wide as their longest text. Returns nothing if there are no rows.
fn columns(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows
            .iter()
            .chain([&titles])
            .filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    [&titles].into_iter().chain(&rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: usize, calls: u64) -> ClientStatus {
        ClientStatus {
            id,
            pid: 100,
            peer: "127.0.0.1:5".into(),
            user: String::new(),
            profile: "office".into(),
            since: 0,
            module: "soft\x1b[2J\n  5".into(),
            calls,
            in_flight: 1,
            last_call: "C_Sign".into(),
            idle: 61.5,
        }
    }

    fn daemon(clients: Vec<ClientStatus>) -> Status {
        Status {
            version: "1.0".into(),
            pid: 7,
            since: 0,
            drains: true,
            services: vec![ServiceStatus {
                name: "svc".into(),
                workers: 3,
                max_workers: 9,
                idle: 1,
                modules: Vec::new(),
                clients,
            }],
        }
    }

    #[test]
    fn nothing_that_a_client_says_reaches_the_terminal_as_it_is() {
        let text = status(&daemon(vec![client(4, 12)]));
        assert!(text.contains("draining"), "{text}");
        assert!(
            text.contains("svc: 1 clients, 3 workers of 9 at most, 1 waiting"),
            "{text}"
        );
        assert!(text.contains("soft\\u{1b}[2J\\n  5"), "{text}");
        assert!(text.contains("C_Sign 1m01s ago"), "{text}");
        assert!(!status(&daemon(Vec::new())).contains("CLIENT"));
    }

    #[test]
    fn the_busiest_client_comes_first() {
        let before = HashMap::from([(1, 10), (2, 10)]);
        let clients = vec![client(1, 12), client(2, 30), client(3, 99)];
        let text = top(&daemon(clients), &before, Duration::from_secs(2));
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert!(rows[0].contains("  10.0 "), "{text}");
        assert!(
            rows[1].contains("  1.0 ") && rows[1].trim_start().starts_with('1'),
            "{text}"
        );
        assert!(rows[2].contains("  0.0 "), "{text}");
    }
}
