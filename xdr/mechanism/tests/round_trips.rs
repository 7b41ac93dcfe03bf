//! Converts every structure to each representation and back.

use super::support::{FakeMemory, Random, all_takers, decoded, encoded, mechanism, takers};
#[allow(unused_imports)]
use crate::codec::{DecodeError, Decoder, Encoder, Wire as _};
use crate::mechanism::notation::{Kind, Layout};
use crate::mechanism::structure::{Structure, Value};
use crate::mechanism::*;

/// Every way of laying out structures that a client can have.
fn abis() -> Vec<Abi> {
    let clients = [
        Architecture::LITTLE_64,
        Architecture::LITTLE_32,
        Architecture::BIG_64,
        Architecture::BIG_32,
    ];
    clients
        .iter()
        .flat_map(|client| Abi::candidates(*client).iter().copied())
        .collect()
}

/// A structure whose pointers are NULL, with numbers that fit into 4 bytes.
fn without_data(random: &mut Random, layout: &'static Layout) -> Structure {
    let mut value = |kind| match kind {
        Kind::Number | Kind::Mechanism | Kind::Key => Value::Number(random.below(1 << 32)),
        Kind::Flag | Kind::Byte => Value::Number(random.below(256)),
        Kind::Length => Value::Number(0),
        Kind::Bytes(size) => Value::Bytes(
            (0..size)
                .map(|_| random.next() as u8)
                .collect::<Vec<_>>()
                .into(),
        ),
        Kind::Pointer(_) => Value::Null,
    };
    let values = layout
        .fields
        .0
        .iter()
        .map(|field| value(field.kind))
        .collect();
    Structure { layout, values }
}

#[test]
fn version_3_converts_every_structure_between_all_word_sizes_and_byte_orders() {
    let mut random = Random(1);
    for layout in parameters::structures() {
        let structure = without_data(&mut random, layout);
        for from in abis() {
            let sent = structure.lay_out(from).expect("no data");
            assert_eq!(sent.len(), layout.size(from));
            let received = Structure::read(&sent, layout, from);
            assert!(received == structure, "{} {from:?}", layout.name);
            for to in abis() {
                assert_eq!(
                    received.lay_out(to),
                    structure.lay_out(to),
                    "{}",
                    layout.name
                );
            }
        }
    }
}

#[test]
fn every_structure_crosses_the_wire_unchanged() {
    let mut random = Random(2);
    for (name, _, layout) in all_takers() {
        for _ in 0..5 {
            let structure = random.structure(layout);
            assert!(structure.is_sound(None), "{}", layout.name);
            let sent = mechanism(name, Parameter::Structure(structure));
            let received = decoded(&encoded(&sent).expect("no address"));
            assert!(received == Ok(sent), "{name} {}", layout.name);
        }
    }
}

/// Builds the memory for a module, reads it as the client reads the application's, and compares. So both
/// have the same idea of C, of the order of outputs, and of the room for them.
#[test]
fn every_structure_is_read_as_it_was_built() {
    let mut random = Random(3);
    for (name, usage, layout) in all_takers() {
        for _ in 0..20 {
            let sent = mechanism(name, Parameter::Structure(random.structure(layout)));
            let assembly = sent.assemble(usage, false).expect("no address");
            let mut memory = FakeMemory::default();
            let address = memory.add_assembly(&assembly);
            let length = usize::try_from(assembly.length()).unwrap();
            let (read, places) =
                Mechanism::from_memory(sent.mechanism_type(), address, length, usage, &memory)
                    .expect("all is there");
            assert!(read == sent, "{name} {}", layout.name);
            let written = assembly.written(true);
            let changes = written.changes(&places, &memory).expect("same places");
            assert!(changes.is_empty(), "nothing was written to {name}");
        }
    }
}

#[test]
fn what_a_module_writes_reaches_each_place_and_never_more_than_there_is_room_for() {
    let mut random = Random(4);
    let mut most = 0;
    for (name, usage, layout) in takers() {
        for round in 0..20 {
            let sent = mechanism(name, Parameter::Structure(random.structure(layout)));
            let mut assembly = sent.assemble(usage, false).expect("no address");
            let mut memory = FakeMemory::default();
            let address = memory.add_assembly(&assembly);
            let length = usize::try_from(assembly.length()).unwrap();
            let (_, places) =
                Mechanism::from_memory(sent.mechanism_type(), address, length, usage, &memory)
                    .expect("all is there");
            // All ones is also a length above every room.
            assembly.fill([0xff, 0x5a][round % 2]);
            let written = assembly.written(true);
            let mut buffer = Vec::new();
            let mut output = Encoder::new(&mut buffer, Architecture::host());
            written.write(&mut output);
            let record = output.finish().unwrap().to_vec();
            let mut input = Decoder::new(&record[crate::record::MARK_SIZE..], Architecture::host());
            let received = Written::read(&mut input).unwrap();
            assert!(received == written && input.finish().is_ok());

            let changes = received.changes(&places, &memory).expect("same places");
            most = most.max(places.len());
            for place in &places {
                let change = changes
                    .iter()
                    .find(|change| change.address == place.address);
                let length = change.map_or(0, |change| change.bytes.len());
                assert!(length <= place.length, "{name}");
                // Equal bytes are not written again.
                let before = memory.read(place.address, place.length.max(1)).unwrap();
                let unchanged = before.iter().all(|byte| [0xff, 0x5a].contains(byte));
                assert!(length == place.length || unchanged, "{name}");
            }
            let failed = assembly.written(false);
            assert!(failed.changes(&places, &memory).is_ok());
        }
    }
    assert_eq!(most, 6); // the key material of TLS
}
