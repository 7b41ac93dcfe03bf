# Builds, tests and installs the PKCS#11 proxy. Everything else is cargo's.
#
#   make                the daemon, the client library and the doctor, in target/release
#   make demo           a token, a daemon and pkcs11-tool, end to end (no root but for packages)
#   make check          every test
#   make deny           the dependencies: versions, licences, sources, known vulnerabilities
#   make msrv           whether everything builds with the oldest Rust that Cargo.toml promises
#   make bench          cost of a call, compared with the bare transport
#   make soak           the slow tests
#   make tour           README.md's "Ten minutes", as a reader would follow it (root)
#   make sanitizers     programs on a library built for AddressSanitizer and ThreadSanitizer (nightly Rust)
#   make suites         other projects' test suites, on modules and through the proxy: no difference
#   make applications   real applications on a token, directly and through the proxy
#   make recipes        does what the pages of docs/recipes say, on two machines in containers (root)
#   make vectors        captures what tests/wire/vectors lacks from the original
#   make fresh          make demo and make check on new Debian 12 and 13 systems, in directories (root)
#   make certs          an authority and certificates for a trial of TLS, in CERTS, for SERVER
#   make man            the man pages, in target/man
#   make docs           writes docs/man, docs/configuration.md, docs/commands.md and docs/client.md anew
#   make install        DESTDIR, PREFIX, SYSCONFDIR, LIBDIR and others; docs/install.md describes all variables
#   make install-files  the same with what is built already
#   make uninstall      removes what make install has installed with the same variables
#   make deb            Debian packages, in target/debian (no root but for what builds them)
#   make packages-test  these packages on new Debian 12 and 13 systems: over Caml Crush's, and back (root)
#   make opencryptoki   openCryptoki's software token through the daemon, with the sandbox's preset default (root)
#   make units          the systemd units at work, on new Debian 12 and 13 systems that boot in containers (root)
#   make container-test    builds the container image and runs it, with podman (root)
#   make kubernetes-test   checks the manifests in etc/kubernetes
#   make licences       the licence texts of what is linked, in target/release-files/THIRD-PARTY-LICENSES
#   make sbom           the software bill of materials (CycloneDX), in target/release-files
#   make reproducible   packs the sources with all crates, and proves that two builds of them have the same bytes
#   make release        all files of a release, in target/release-files, after all checks; see docs/releasing.md

# Where things are installed; docs/install.md says what goes where. An empty directory: these files are not installed,
# except for the first four.
PREFIX     ?= /usr/local
SYSCONFDIR ?= $(PREFIX)/etc
LIBDIR     ?= $(PREFIX)/lib
BINDIR     ?= $(PREFIX)/bin
MANDIR     ?= $(PREFIX)/share/man
DOCDIR     ?= $(PREFIX)/share/doc/pkcs11proxyd
SYSTEMD    ?= $(PREFIX)/lib/systemd/system
SYSUSERS   ?= $(PREFIX)/lib/sysusers.d
TMPFILES   ?= $(PREFIX)/lib/tmpfiles.d
LOGROTATE  ?= $(SYSCONFDIR)/logrotate.d
INITD      ?= $(SYSCONFDIR)/init.d
# Where p11-kit looks for files that describe modules. A prefix that is not the system's keeps its own.
OF_P11_KIT = $(shell pkg-config --variable=p11_module_configs p11-kit-1 2>/dev/null)
P11_KIT    ?= $(or $(if $(filter /usr /usr/local,$(PREFIX)),$(OF_P11_KIT)),$(PREFIX)/share/p11-kit/modules)

# Where the client library connects unless a variable or the settings file says otherwise: an endpoint, such as host:port
# or the absolute path of a Unix socket; after "tcp," or "unix," one of the only transport.
CLIENT_SOCKET ?= 127.0.0.1:4444

# The same for the libraries with one transport: libp11clienttcp.so, libp11clienttcpssl.so, whose default is that of the
# first, and libp11clientunix.so.
CLIENT_TCP_SOCKET    ?= 127.0.0.1:4444
CLIENT_TCPSSL_SOCKET ?=
CLIENT_UNIX_SOCKET   ?= /var/run/pkcs11proxyd.socket

# Besides, one libp11client<name>.so for each name, with that module alias compiled in: a,b or "a b". The others
# take the alias from PKCS11PROXY_LIBNAME, the settings file or ~/.camlcrushlibname.
LIBNAMES ?=

# What the client library speaks TLS with unless PKCS11PROXY_CA_FILE, PKCS11PROXY_CERT_FILE,
# PKCS11PROXY_PRIVKEY_FILE and PKCS11PROXY_SERVER_CERTS_FILE say otherwise: PEM files. Their paths
# are compiled in, or with CLIENT_TLS_EMBED=1 their contents. The last is a list of the only
# server certificates that are accepted. A library for every transport then speaks TLS with each
# host:port.
CLIENT_TLS_CA     ?=
CLIENT_TLS_CERT   ?=
CLIENT_TLS_KEY    ?=
CLIENT_TLS_PINNED ?=
CLIENT_TLS_EMBED  ?=

# The same, as options of Caml Crush's configure: env, or path or embed and ;ca=FILE,cert=FILE,privkey=FILE, and
# embed;certs=FILE or embed;certs=DIRECTORY. With one of them libp11client.so speaks TLS only.
SSL_CLIENTFILES ?=
SSL_SERVERCERTS ?=

# Where `make certs` puts certificates for a trial, and by which name or address clients reach the server
# beside localhost.
CERTS  ?= certs
SERVER ?=

# Another proxy that `make bench` measures: a directory with pkcs11-daemon and libpkcs11-proxy.so.
PKCS11_PROXY ?=

# What `make suites` runs, and on which modules; empty for all.
SUITES  ?=
MODULES ?=
export MODULES

# What `make applications` runs, and in which ways; empty for all. See tests/applications/run.sh.
APPLICATIONS ?=
WAYS         ?=
RECOVER      ?=
export WAYS RECOVER

# What `make recipes` does; empty for all pages of docs/recipes.
RECIPES ?=

CARGO   ?= cargo
INSTALL ?= install
TARGET  := $(or $(CARGO_TARGET_DIR),target)

# client/built-in.sh checks these, and runs cargo with what is compiled in. It gets them as they were written.
CLIENT_VARIABLES := CLIENT_SOCKET CLIENT_TCP_SOCKET CLIENT_TCPSSL_SOCKET CLIENT_UNIX_SOCKET LIBNAMES CLIENT_TLS_CA \
  CLIENT_TLS_CERT CLIENT_TLS_KEY CLIENT_TLS_PINNED CLIENT_TLS_EMBED SSL_CLIENTFILES SSL_SERVERCERTS
$(foreach variable,$(CLIENT_VARIABLES),$(eval override $(variable) := $$(value $(variable))))
export $(CLIENT_VARIABLES)
BUILT_IN := client/built-in.sh

# Names that are no file names become no targets; client/built-in.sh refuses them.
comma := ,
rest  := $(subst $(comma),,$(LIBNAMES))
$(foreach character,a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X \
  Y Z 0 1 2 3 4 5 6 7 8 9 . _ -,$(eval rest := $$(subst $(character),,$$(rest))))
NAMES := $(if $(rest),,$(subst $(comma), ,$(LIBNAMES)))

# Each has its transport or its alias compiled in, whatever it is called later, and its name as Caml Crush's has it
# (SONAME).
STANDARD := libp11client.so libp11clienttcp.so libp11clienttcpssl.so libp11clientunix.so
SPECIAL  := $(sort $(filter-out $(TARGET)/release/libp11client.so,$(STANDARD:%=$(TARGET)/release/%) $(NAMES:%=$(TARGET)/release/libp11client%.so)))

# What a library is built from.
SOURCES := build.rs Cargo.toml Cargo.lock \
  $(shell find bindings client xdr -name '*.rs' -o -name '*.toml' -o -name '*.x' -o -name '*.x.txt')
OPTIONS := $(TARGET)/release/client-options
.PHONY: all demo check deny msrv bench soak tour sanitizers suites applications vectors fresh units opencryptoki certs install install-files install-units uninstall packages demo-packages suites-packages applications-packages force

# All libraries are built in the same place, one after the other.
.NOTPARALLEL:

all: $(SPECIAL)
	$(BUILT_IN) libp11client.so $(CARGO) build --release --workspace

$(SPECIAL): $(TARGET)/release/%.so: $(SOURCES) $(OPTIONS)
	$(BUILT_IN) $*.so $(CARGO) rustc --release --package client --lib -- -C link-arg=-Wl,-soname,$*.so
	cp $(TARGET)/release/libp11client.so $@

# Newer than the libraries if they were built with other values.
$(OPTIONS): force
	@for library in $(STANDARD); do $(BUILT_IN) $$library || exit; done >/dev/null
	@mkdir -p $(@D)
	@for library in $(STANDARD); do $(BUILT_IN) $$library; done >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

packages:
	tests/support/install-packages.sh check

suites-packages:
	tests/support/install-packages.sh suites

applications-packages:
	tests/support/install-packages.sh applications

demo-packages:
	tests/support/install-packages.sh demo

demo: demo-packages all
	tests/demo.sh $(TARGET)/release

# nextest runs each test in a process of its own, in parallel; without it, cargo's own runner.
check: packages
	$(CARGO) test --workspace --doc
	if $(CARGO) nextest --version >/dev/null 2>&1; \
	then $(CARGO) nextest run --workspace --config-file tests/nextest.toml; \
	else $(CARGO) test --workspace --lib --bins --tests --no-fail-fast; fi

deny:
	CARGO=$(CARGO) tests/support/deny.sh

msrv: packages
	tests/support/msrv.sh

bench: packages
	PKCS11_PROXY='$(PKCS11_PROXY)' $(CARGO) bench --bench cost

tour: demo-packages all
	tests/tour.sh $(TARGET)/release

# Without the tests that others run in processes of their own, `make vectors` and `make sanitizers`.
soak: packages
	$(CARGO) test --release --workspace --no-fail-fast -- --ignored --test-threads=1 \
	  --skip in_a_soft --skip capture_every_function --skip sanitized

sanitizers: packages
	CARGO=$(CARGO) tests/support/sanitizers.sh

# SUITES and MODULES are lists; see tests/suites/run.sh. Needs the network, to build what is tested.
suites: suites-packages all
	tests/suites/run.sh $(TARGET)/release $(SUITES)

# Needs the network, to build what is tested.
applications: applications-packages all
	tests/applications/run.sh $(TARGET)/release $(APPLICATIONS)

vectors: packages
	VECTORS=$(CURDIR)/tests/wire/vectors \
	  $(CARGO) test --test wire capture_every_function -- --ignored

fresh:
	tests/fresh-system.sh bookworm
	tests/fresh-system.sh trixie

units: all
	tests/units.sh bookworm $(TARGET)/release
	tests/units.sh trixie $(TARGET)/release

opencryptoki: all
	tests/opencryptoki.sh $(TARGET)/release

certs:
	SERVER='$(SERVER)' tests/support/make-certs.sh $(CERTS)

install: all install-files

# docs/man is committed, so that pages can be installed without building anything for them; a test says if it is not current.
.PHONY: man docs
man:
	mkdir -p $(TARGET)/man
	cp docs/man/* $(TARGET)/man/

# Names and types come from the parsers, texts from etc/ and manual/pages.
docs:
	$(CARGO) run --example manual -- docs

# What is built already, in BUILT.
BUILT     ?= $(TARGET)/release
MAN_PAGES ?= docs/man
$(foreach variable,DESTDIR BUILT MAN_PAGES INSTALL PREFIX SYSCONFDIR LIBDIR BINDIR MANDIR DOCDIR SYSTEMD SYSUSERS \
  TMPFILES LOGROTATE INITD P11_KIT,$(eval install-files install-units uninstall: export $(variable) := $$($(variable))))

install-files:
	@LIBRARIES=$$($(BUILT_IN) -libraries) && export LIBRARIES && etc/install.sh install

install-units:
	@LIBRARIES= etc/install.sh install units

uninstall:
	@LIBRARIES=$$($(BUILT_IN) -libraries) && export LIBRARIES && etc/install.sh uninstall

.PHONY: recipes recipes-packages
recipes-packages:
	tests/support/install-packages.sh recipes

recipes: recipes-packages all
	tests/recipes/run.sh $(TARGET)/release $(RECIPES)

.PHONY: deb deb-files deb-packages packages-test
deb: deb-packages all
	$(MAKE) licences RELEASE=$(TARGET)/release
	$(MAKE) deb-files

# Of what has been built already, which may have been elsewhere: TARGET=DIRECTORY.
deb-files:
	etc/debian/build.sh $(TARGET)/release $(TARGET)/debian

deb-packages:
	tests/support/install-packages.sh deb

# TEST=quick leaves piuparts out.
packages-test: TEST ?=
packages-test:
	tests/support/install-packages.sh packages
	tests/packages.sh files $(TARGET)/debian
	tests/packages.sh bookworm $(TARGET)/debian $(TEST)
	tests/packages.sh trixie $(TARGET)/debian $(TEST)

# The paths of this machine are left out of programs and libraries, so that each folder gives the same bytes, with crates
# from crates.io or from vendor/. The number is cargo's for crates.io.
CARGO_DIRECTORY := $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAPPED := $(foreach path,$(CARGO_DIRECTORY)=/cargo $(CURDIR)=/source $(abspath $(TARGET))=/target \
  $(CURDIR)/vendor=/crates $(CARGO_DIRECTORY)/registry/src/index.crates.io-1949cf8c6b5b557f=/crates, \
  --remap-path-prefix=$(path))
all $(SPECIAL): export RUSTFLAGS := $(strip $(RUSTFLAGS) $(REMAPPED))

# Where `make release` and its parts put their files.
RELEASE ?= $(TARGET)/release-files

.PHONY: container-test kubernetes-test licences sbom reproducible release

container-test:
	tests/container.sh

kubernetes-test: packages
	$(CARGO) build --bin pkcs11proxyd
	tests/kubernetes.sh $(TARGET)/debug

licences:
	@mkdir -p $(RELEASE)
	CARGO=$(CARGO) python3 etc/release/linked.py licences >$(RELEASE)/THIRD-PARTY-LICENSES.new
	mv $(RELEASE)/THIRD-PARTY-LICENSES.new $(RELEASE)/THIRD-PARTY-LICENSES

sbom:
	@mkdir -p $(RELEASE)
	CARGO=$(CARGO) etc/release/sbom.sh $(RELEASE)

reproducible:
	@mkdir -p $(RELEASE)
	etc/release/reproducible.sh "$$(CARGO=$(CARGO) etc/release/tarball.sh $(RELEASE))" $(RELEASE)

# STEPS names some of the steps; see etc/release/release.sh.
release:
	CARGO=$(CARGO) etc/release/release.sh $(RELEASE)
