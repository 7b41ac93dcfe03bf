//! Tests the library with the original's daemon in front of SoftHSM.

use std::ffi::c_void;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::*;

use crate::harness::{NOT_INITIALIZED, get_info, in_child, initialized, library_file, run_at};

/// The original daemon in front of SoftHSM, with a token of its own; removed when this is dropped.
struct Original {
    folder: PathBuf,
    address: String,
    daemon: Child,
}

const PIN: &str = "1234";

impl Original {
    fn start() -> Original {
        let name = format!("p11client-original-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("tokens")).expect("a folder");
        let in_folder = |file: &str| folder.join(file).display().to_string();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound socket").to_string();
        drop(free);
        let write = |file: &str, content: String| {
            std::fs::write(folder.join(file), content).expect("a writable folder");
        };
        write(
            "softhsm2.conf",
            format!("directories.tokendir = {}\n", in_folder("tokens")),
        );
        let modules = "modules = [(\"softhsm\", \"/usr/lib/softhsm/libsofthsm2.so\")]\n";
        write("filter.conf", modules.to_owned());
        write(
            "daemon.conf",
            format!(
                "netplex {{
                   controller {{ socket_directory = \"{}\"; logging {{ type = \"stderr\"; }}; }};
                   service {{
                     name = \"test\"; conn_limit = 1;
                     protocol {{
                       name = \"rpc_pkcs11\"; tcp_nodelay = true;
                       address {{ type = \"internet\"; bind = \"{address}\"; }};
                     }};
                     processor {{
                       type = \"rpc_pkcs11\"; filter_config = \"{}\"; use_ssl = false;
                     }};
                     workload_manager {{
                       type = \"dynamic\"; max_jobs_per_thread = 1; max_threads = 100;
                       min_free_jobs_capacity = 1; max_free_jobs_capacity = 1;
                     }};
                   }};
                 }}",
                in_folder("netplex"),
                in_folder("filter.conf"),
            ),
        );
        let token = ["--init-token", "--free", "--label", "test"];
        let pins = ["--pin", PIN, "--so-pin", "12345678"];
        let made = Command::new("softhsm2-util")
            .args(token)
            .args(pins)
            .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
            .output()
            .expect("softhsm2-util is installed");
        assert!(made.status.success(), "{made:?}");
        let daemon = Command::new("/usr/bin/pkcs11proxyd")
            .args(["-fg", "-conf", &in_folder("daemon.conf")])
            .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("caml-crush-server is installed");
        let original = Original {
            folder,
            address,
            daemon,
        };
        original.wait_until_up();
        original
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn pkcs11_tool(&self, arguments: &[&str]) -> Output {
        Command::new("pkcs11-tool")
            .arg("--module")
            .arg(library_file())
            .args(arguments)
            .current_dir(&self.folder)
            .env("PKCS11PROXY_SOCKET_PATH", &self.address)
            .env("PKCS11PROXY_LIBNAME", "softhsm")
            .output()
            .expect("opensc is installed")
    }

    fn logged_in(&self, arguments: &[&str]) -> String {
        let output = self.pkcs11_tool(&[&["--login", "--pin", PIN], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // SAFETY: a process that was started here and not yet waited for.
        unsafe { libc::kill(self.daemon.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.daemon.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_original_daemon_serves_this_library() {
    let original = Original::start();
    let slots = original.pkcs11_tool(&["-L"]);
    assert!(String::from_utf8_lossy(&slots.stdout).contains("token label        : test"));

    let generate = ["--keypairgen", "--key-type", "rsa:2048", "--id", "01"];
    original.logged_in(&generate);
    std::fs::write(original.folder.join("data"), "signed").expect("a writable folder");
    let key = ["--mechanism", "SHA256-RSA-PKCS", "--id", "01", "-i", "data"];
    original.logged_in(&[&["--sign", "-o", "signature"], &key[..]].concat());
    let verified =
        original.logged_in(&[&["--verify", "--signature-file", "signature"], &key[..]].concat());
    assert!(verified.contains("Signature is valid"), "{verified}");
    assert!(original.logged_in(&["-O"]).contains("Private Key Object"));

    let wrong = original.pkcs11_tool(&["--login", "--pin", "0000", "-O"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("CKR_PIN_INCORRECT"));

    run_at(
        "two_phase",
        &original.address,
        &[("PKCS11PROXY_LIBNAME", "softhsm")],
    );
}

/// Tests the two-call convention and attributes against the original, in which the first call executes.
pub fn two_phase() {
    let loaded = initialized();
    let mut slots = [0; 8];
    let mut count = 0;
    assert_eq!(
        call!(loaded.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(count, 2); // SoftHSM: the token, and one that is not initialised
    assert_eq!(
        call!(loaded.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)),
        CKR_OK
    );
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    assert_eq!(
        call!(loaded.C_OpenSession(slots[0], flags, null_mut(), None, &mut session)),
        CKR_OK
    );
    let mut sha256 = CK_MECHANISM {
        mechanism: CKM_SHA256,
        pParameter: null_mut(),
        ulParameterLen: 0,
    };
    let mut data = *b"abc";
    let mut digest = [0u8; 40];
    for room in [None, Some(31), Some(32), Some(40)] {
        assert_eq!(call!(loaded.C_DigestInit(session, &mut sha256)), CKR_OK);
        let mut length = room.unwrap_or(0);
        let output = match room {
            None => null_mut(),
            Some(_) => digest.as_mut_ptr(),
        };
        let first = call!(loaded.C_Digest(session, data.as_mut_ptr(), 3, output, &mut length));
        assert_eq!(length, 32);
        if room.is_some_and(|room| room >= 32) {
            assert_eq!(first, CKR_OK);
            continue;
        }
        let expected = match room {
            None => CKR_OK,
            Some(_) => CKR_BUFFER_TOO_SMALL,
        };
        assert_eq!(first, expected);
        assert_eq!(
            call!(loaded.C_DigestInit(session, &mut sha256)),
            CKR_OPERATION_ACTIVE
        );
        let mut same_elsewhere = data;
        assert_eq!(
            call!(loaded.C_Digest(
                session,
                same_elsewhere.as_mut_ptr(),
                3,
                digest.as_mut_ptr(),
                &mut length
            )),
            CKR_OK
        );
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
        digest = [0; 40];
    }

    let mut label = *b"an object with a label";
    let mut class: CK_OBJECT_CLASS = CKO_DATA;
    let mut private = CK_FALSE;
    let attribute = |kind, value: *mut c_void, length: usize| CK_ATTRIBUTE {
        type_: kind,
        pValue: value,
        ulValueLen: length as CK_ULONG,
    };
    let class_size = size_of::<CK_OBJECT_CLASS>();
    let mut template = [
        attribute(CKA_CLASS, (&raw mut class).cast(), class_size),
        attribute(CKA_LABEL, label.as_mut_ptr().cast(), label.len()),
        attribute(CKA_PRIVATE, (&raw mut private).cast(), 1),
    ];
    let mut object = 0;
    assert_eq!(
        call!(loaded.C_CreateObject(session, template.as_mut_ptr(), 3, &mut object)),
        CKR_OK
    );
    let mut read = [0u8; 100];
    let mut wanted = [
        attribute(CKA_LABEL, null_mut(), 999),
        attribute(CKA_LABEL, read.as_mut_ptr().cast(), 100),
        attribute(CKA_CLASS, read[64..].as_mut_ptr().cast(), class_size),
        attribute(CKA_APPLICATION, read[80..].as_mut_ptr().cast(), 5),
    ];
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, wanted.as_mut_ptr(), 4)),
        CKR_OK
    );
    assert_eq!(
        wanted.map(|wanted| wanted.ulValueLen),
        [22, 22, class_size as CK_ULONG, 0]
    );
    assert_eq!(read[..22], label);
    // A buffer whose size is claimed to be huge is not sent.
    let mut wanted = attribute(CKA_LABEL, read.as_mut_ptr().cast(), isize::MAX as usize);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, &mut wanted, 1)),
        CKR_OK
    );
    assert_eq!(wanted.ulValueLen, 22);
    let mut wanted = attribute(CKA_LABEL, read.as_mut_ptr().cast(), 4);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, object, &mut wanted, 1)),
        CKR_BUFFER_TOO_SMALL
    );
    assert_eq!(wanted.ulValueLen, CK_UNAVAILABLE_INFORMATION);
    let mut wanted = attribute(CKA_LABEL, null_mut(), 999);
    assert_eq!(
        call!(loaded.C_GetAttributeValue(session, 12345, &mut wanted, 1)),
        CKR_OBJECT_HANDLE_INVALID
    );
    assert_eq!(wanted.ulValueLen, 999); // the original's client would change it
    let mut random = [0u8; 64];
    assert_eq!(
        call!(loaded.C_GenerateRandom(session, random.as_mut_ptr(), 64)),
        CKR_OK
    );
    assert_ne!(random, [0; 64]);
    in_child(|| assert_eq!(get_info(&loaded), NOT_INITIALIZED));
    assert_eq!(call!(loaded.C_CloseSession(session)), CKR_OK);
    assert_eq!(call!(loaded.C_Finalize(null_mut())), CKR_OK);
    assert_eq!(
        call!(loaded.C_GetFunctionList(null::<*mut CK_FUNCTION_LIST>().cast_mut())),
        CKR_ARGUMENTS_BAD
    );
}
