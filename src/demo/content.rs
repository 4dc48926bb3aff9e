//! What stands in the demo's files: text that looks like the output of a small business's systems. The same random
//! numbers give the same bytes.

use std::fmt::Write;

use chrono::NaiveDate;
use rand::RngExt;
use rand::rngs::StdRng;

const CUSTOMERS: [&str; 6] = ["Alder & Sons", "Birch Ltd", "Cedar GmbH", "Douglas Oy", "Elm S.A.", "Fir \"Nordic\" AB"];
const ITEMS: [&str; 6] = ["pallet", "crate", "beam", "board", "shingle", "veneer"];

/// So many orders of one region as CSV, with quoting where it is due.
pub(super) fn orders(random: &mut StdRng, region: &str, day: NaiveDate, rows: usize) -> String {
    let mut text = String::from("order,day,region,customer,item,quantity,price\n");
    for row in 0..rows {
        let customer = CUSTOMERS[random.random_range(0..CUSTOMERS.len())].replace('"', "\"\"");
        let item = ITEMS[random.random_range(0..ITEMS.len())];
        let (quantity, cents) = (random.random_range(1..200), random.random_range(250..90_000));
        let price = format!("{}.{:02}", cents / 100, cents % 100);
        line(&mut text, format_args!("{},{day},{region},\"{customer}\",{item},{quantity},{price}", 100_000 + row));
    }
    text
}

/// One sensor reading each ten seconds.
pub(super) fn readings(random: &mut StdRng, day: NaiveDate, rows: usize) -> String {
    let mut text = String::from("time,sensor,celsius,humidity\n");
    let midnight = day.and_time(chrono::NaiveTime::MIN);
    for row in 0..rows {
        let time = midnight + chrono::TimeDelta::seconds(10 * row as i64);
        let (sensor, celsius) = (row % 8, random.random_range(17.0..24.0));
        let humidity = random.random_range(35..60);
        line(&mut text, format_args!("{}Z,hall-{sensor},{celsius:.2},{humidity}", time.format("%FT%T")));
    }
    text
}

/// Lines of a service's log.
pub(super) fn log(random: &mut StdRng, service: &str, day: NaiveDate, rows: usize) -> String {
    let mut text = String::new();
    let start = day.and_time(chrono::NaiveTime::MIN);
    for row in 0..rows {
        let time = (start + chrono::TimeDelta::seconds(7 * row as i64)).format("%FT%T");
        let (level, status) = if random.random_ratio(1, 40) { ("WARN", 503) } else { ("INFO", 200) };
        let (request, took) = (random.random::<u32>(), random.random_range(1..900));
        line(&mut text, format_args!("{time}Z {level} {service} request={request:08x} status={status} took={took}ms"));
    }
    text
}

/// One invoice as JSON.
pub(super) fn invoice(random: &mut StdRng, number: u32, day: NaiveDate) -> String {
    let lines: Vec<serde_json::Value> = (0..random.random_range(6..14))
        .map(|_| {
            serde_json::json!({
                "item": ITEMS[random.random_range(0..ITEMS.len())],
                "quantity": random.random_range(1..50),
                "cents": random.random_range(250..90_000),
            })
        })
        .collect();
    let customer = CUSTOMERS[random.random_range(0..CUSTOMERS.len())];
    let invoice = serde_json::json!({"number": number, "day": day.to_string(), "customer": customer, "lines": lines});
    format!("{invoice:#}\n")
}

/// A gzip file (RFC 1952) of stored blocks (RFC 1951, section 3.2.4): what a log rotation leaves, without a compressor.
pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let blocks = content.chunks(u16::MAX.into());
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.enumerate() {
        let length = block.len() as u16;
        file.push(u8::from(index == last));
        file.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        file.extend(block);
    }
    file.extend(crc32(content).to_le_bytes());
    file.extend((content.len() as u32).to_le_bytes());
    file
}

/// CRC-32 as RFC 1952, section 8, defines it.
fn crc32(content: &[u8]) -> u32 {
    !content.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_sum_is_the_standard_one() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
