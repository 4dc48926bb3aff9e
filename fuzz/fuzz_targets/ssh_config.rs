#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| archiver::fuzzing::ssh_config(data));
