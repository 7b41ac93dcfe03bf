about="osslsigncode signs a Windows program"
transport=unix

# The smallest program of Windows that has all headers.
windows_program() {
    python3 - <<'PYTHON'
import struct
headers = b"MZ" + bytes(58) + struct.pack("<I", 64)
headers += b"PE\0\0" + struct.pack("<HHIIIHH", 0x14c, 1, 0, 0, 0, 224, 0x102)
headers += struct.pack("<HBBIIIIII", 0x10b, 14, 0, 512, 0, 0, 0x1000, 0x1000, 0x2000)
headers += struct.pack("<IIIHHHHHHIIIIHH", 0x400000, 0x1000, 512, 6, 0, 0, 0, 6, 0, 0, 0x2000, 512, 0, 3, 0)
headers += struct.pack("<IIIIII", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16) + bytes(128)
headers += b".text\0\0\0" + struct.pack("<IIIIIIHHI", 512, 0x1000, 512, 512, 0, 0, 0, 0, 0x60000020)
open("program.exe", "wb").write(headers.ljust(512, b"\0") + b"\xc3" + bytes(511))
PYTHON
}
signs() {
    engine=$(find /usr/lib -path '*engines-3/pkcs11.so' | head -n 1)
    osslsigncode sign -pkcs11engine "$engine" -pkcs11module "$library" -certs "$public/$1.pem" -h sha256 \
        -key "$token;object=$1;type=private;pin-value=$pin" -in program.exe -out "$1.exe"
}
verifies() {
    osslsigncode verify -CAfile "$public/ca.pem" -in "$1.exe" >verified && contains verified "Signature verification: ok"
}
# What was changed after it was signed is not good any more.
changed() {
    printf X | dd of="$1.exe" bs=1 seek=600 conv=notrunc && ! verifies "$1"
}

application() {
    windows_program
    for key in rsa ec; do
        step "signs with $key" signs $key
        step "verifies $key" verifies $key
        step "sees a change after $key" changed $key
    done
}
