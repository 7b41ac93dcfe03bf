/*
 * A walk through PKCS#11 that a seed determines: random functions with random NULLs, lengths, rooms,
 * mechanisms and templates, in up to three sessions. Part of exact.c.
 *
 * No pointer is passed that PKCS#11 forbids: each has the memory its length says, or is NULL. A NULL input comes
 * with the length 0, but in front of recorder.c now and then with another: real modules do not survive that. What
 * SoftHSM does not survive besides is left out for every library. What a module makes
 * of random numbers is shown as its length: operations use imported and derived keys alone, never
 * generated ones, so that only the outputs of a few mechanisms are random.
 */

static unsigned long long walk_state;
static unsigned long below(unsigned long bound)
{
    walk_state += 0x9e3779b97f4a7c15;
    unsigned long long mixed = (walk_state ^ walk_state >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return (unsigned long)((mixed ^ mixed >> 31) % bound);
}
static int chance(unsigned long percent) { return below(100) < percent; }
#define ONE_OF(...) ((const CK_ULONG[]){ __VA_ARGS__ })[below(COUNT(((const CK_ULONG[]){ __VA_ARGS__ })))]

/* ---- What there is to use ------------------------------------------------------------------------- */

enum message { SEALS, OPENS, SIGNS, VERIFIES };
static const CK_FLAGS MESSAGE_FLAGS[] = { CKF_MESSAGE_ENCRYPT, CKF_MESSAGE_DECRYPT, CKF_MESSAGE_SIGN, CKF_MESSAGE_VERIFY };

#define NOTHING_BEGUN 6
/* A session, with the message operations it has, and the function that began another one last. */
static struct place { CK_SESSION_HANDLE session; int active[4]; CK_MECHANISM_TYPE type[4]; int random_output; unsigned long doing; } places[3];

/* Objects that the walk made. `random`: by the module's generator. */
static struct thing { CK_OBJECT_HANDLE handle; int random; } things[64];
static unsigned long thing_count;
static CK_OBJECT_HANDLE walk_keys[6]; /* AES, AES of 32 bytes, generic secret, RSA public and private, EC private */

static void add_thing(CK_OBJECT_HANDLE handle, int random)
{
    if (handle != NO_HANDLE && handle != 0)
        things[thing_count++ % COUNT(things)] = (struct thing){ handle, random };
}
static struct thing *any_thing(void)
{
    unsigned long count = thing_count < COUNT(things) ? thing_count : COUNT(things);
    static struct thing other;
    if (count > 0 && chance(60))
        return &things[below(count)];
    other = (struct thing){ chance(95) ? walk_keys[below(COUNT(walk_keys))] : ONE_OF(0, 4711, 0xfedcba9876543210), 0 };
    return &other;
}
/* For operations: never a generated key. */
static CK_OBJECT_HANDLE any_key(void)
{
    struct thing *thing = any_thing();
    return thing->random ? walk_keys[0] : thing->handle;
}

static struct in any_in(void)
{
    if (chance(8))
        return NO;
    if (chance(8))
        return EMPTY;
    if (deterministic && chance(4))
        return HOLLOW(ONE_OF(1, 16, 24, 64));
    if (chance(25)) {
        /* A copy, which no output changes while it is in use. */
        static CK_BYTE copies_of_kept[32][sizeof kept];
        static unsigned next;
        return B(memcpy(copies_of_kept[next++ % COUNT(copies_of_kept)], kept, sizeof kept), kept_length);
    }
    CK_ULONG length = ONE_OF(1, 2, 5, 8, 15, 16, 17, 24, 31, 32, 33, 40, 48, 64, 100, 127, 128, 129, 500, 1000, 4096);
    return B(DATA + below(1000), length);
}
static struct room any_room(void)
{
    if (chance(15))
        return NOWHERE;
    if (chance(4))
        return NULL_ROOM(ONE_OF(1, 32, 64, 0xffffffff, CK_UNAVAILABLE_INFORMATION));
    if (chance(3))
        return NO_LENGTH;
    if (chance(2))
        return NOTHING;
    return SPACE(ONE_OF(0, 1, 5, 15, 16, 17, 24, 31, 32, 33, 47, 48, 63, 64, 65, 100, 127, 128, 200, 1000, 5000));
}

/* ---- Mechanisms ------------------------------------------------------------------------------------ */

/* Parameters live until two more mechanisms were made. */
static union parameter {
    CK_GCM_PARAMS gcm;
    CK_CCM_PARAMS ccm;
    CK_AES_CTR_PARAMS ctr;
    CK_RSA_PKCS_OAEP_PARAMS oaep;
    CK_RSA_PKCS_PSS_PARAMS pss;
    CK_EDDSA_PARAMS ed;
    CK_SIGN_ADDITIONAL_CONTEXT ml;
    CK_ECDH1_DERIVE_PARAMS ecdh;
    CK_AES_CBC_ENCRYPT_DATA_PARAMS cbc;
    CK_KEY_DERIVATION_STRING_DATA string;
    CK_HKDF_PARAMS hkdf;
    CK_SP800_108_KDF_PARAMS kdf;
    CK_TLS12_KEY_MAT_PARAMS tls;
    CK_TLS12_MASTER_KEY_DERIVE_PARAMS master;
    CK_TLS_PRF_PARAMS prf;
    CK_RSA_AES_KEY_WRAP_PARAMS rsa_aes;
    CK_GCM_WRAP_PARAMS gcm_wrap;
    CK_OBJECT_HANDLE handle;
    CK_ULONG number;
} parameters[3];
static CK_MECHANISM mechanisms[3];
static CK_BYTE vectors[3][64]; /* IVs: a module may write into them */

struct choice { CK_MECHANISM *mechanism; int random_output; };

static CK_MECHANISM *parameter_of(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG length)
{
    static unsigned next;
    CK_MECHANISM *made = &mechanisms[next++ % COUNT(mechanisms)];
    *made = (CK_MECHANISM){ type, parameter, length };
    if (chance(2))
        *made = (CK_MECHANISM){ type, NULL, 0 };
    else if (parameter && chance(2))
        made->ulParameterLen = 0;
    return made;
}

static CK_BYTE *input(struct in in, CK_ULONG *length)
{
    *length = in.count;
    return (CK_BYTE *)(uintptr_t)in.bytes;
}

static struct choice any_mechanism(void)
{
    static unsigned next;
    union parameter *p = &parameters[next % COUNT(parameters)];
    CK_BYTE *vector = vectors[next++ % COUNT(vectors)];
    memset(p, 0, sizeof *p);
    for (size_t i = 0; i < sizeof vectors[0]; i++)
        vector[i] = (CK_BYTE)(i + 0x40);
    if (chance(2))
        return (struct choice){ NULL, 0 };
    switch (below(20)) {
    case 0: return (struct choice){ parameter_of(CKM_AES_ECB, NULL, 0), 0 };
    case 1: case 2: return (struct choice){ parameter_of(CKM_AES_CBC, vector, 16), 0 };
    case 3: return (struct choice){ parameter_of(CKM_AES_CBC_PAD, vector, 16), 0 };
    case 4:
        p->ctr.ulCounterBits = ONE_OF(128, 128, 64, 0);
        memcpy(p->ctr.cb, vector, 16);
        return (struct choice){ parameter_of(CKM_AES_CTR, p, sizeof p->ctr), 0 };
    case 5: case 6: case 7:
        p->gcm.pIv = chance(90) ? vector : NULL;
        p->gcm.ulIvLen = p->gcm.pIv ? ONE_OF(12, 12, 12, 16, 1, 0) : 0;
        p->gcm.ulIvBits = chance(50) ? 8 * p->gcm.ulIvLen : 0;
        p->gcm.pAAD = input(any_in(), &p->gcm.ulAADLen);
        p->gcm.ulTagBits = ONE_OF(128, 128, 128, 96, 32, 120);
        if (p->gcm.pIv && chance(10))
            memset(vector, 0, 12);
        return (struct choice){ parameter_of(CKM_AES_GCM, p, sizeof p->gcm), 0 };
    case 8:
        p->ccm.ulDataLen = below(100);
        p->ccm.pNonce = vector, p->ccm.ulNonceLen = ONE_OF(7, 12, 13);
        p->ccm.pAAD = input(any_in(), &p->ccm.ulAADLen);
        p->ccm.ulMACLen = ONE_OF(4, 16);
        return (struct choice){ parameter_of(CKM_AES_CCM, p, sizeof p->ccm), 0 };
    case 9: return (struct choice){ parameter_of(CKM_RSA_PKCS, NULL, 0), 2 };
    case 10:
        p->oaep = (CK_RSA_PKCS_OAEP_PARAMS){ ONE_OF(CKM_SHA_1, CKM_SHA_1, CKM_SHA256), CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0 };
        if (chance(40))
            p->oaep.pSourceData = input(any_in(), &p->oaep.ulSourceDataLen);
        return (struct choice){ parameter_of(CKM_RSA_PKCS_OAEP, p, sizeof p->oaep), 1 };
    case 11: case 12: return (struct choice){ parameter_of(CKM_SHA256_HMAC, NULL, 0), 0 };
    case 13: return (struct choice){ parameter_of(CKM_SHA256_RSA_PKCS, NULL, 0), 0 };
    case 14:
        p->pss = (CK_RSA_PKCS_PSS_PARAMS){ CKM_SHA256, CKG_MGF1_SHA256, ONE_OF(0, 20, 32) };
        return (struct choice){ parameter_of(CKM_SHA256_RSA_PKCS_PSS, p, sizeof p->pss), 1 };
    case 15: return (struct choice){ parameter_of(CKM_ECDSA, NULL, 0), 1 };
    case 16:
        p->ed.phFlag = (CK_BBOOL)below(2);
        p->ed.pContextData = input(any_in(), &p->ed.ulContextDataLen);
        return (struct choice){ parameter_of(CKM_EDDSA, p, sizeof p->ed), 1 };
    case 17:
        p->ml.hedgeVariant = below(3);
        p->ml.pContext = input(any_in(), &p->ml.ulContextLen);
        return (struct choice){ parameter_of(ONE_OF(CKM_ML_DSA, CKM_SLH_DSA, CKM_HASH_ML_DSA_SHA256), p, sizeof p->ml), 1 };
    case 18: return (struct choice){ parameter_of(CKM_AES_CMAC, NULL, 0), 0 };
    default: return (struct choice){ parameter_of(ONE_OF(CKM_SHA256, CKM_AES_KEY_WRAP, 0x80004711), NULL, 0), 0 };
    }
}

/* Mostly a key that fits. SoftHSM 2.6.1 does not survive a key of another type where it expects RSA or EC. */
static CK_OBJECT_HANDLE key_for(const CK_MECHANISM *mechanism, int private)
{
    CK_MECHANISM_TYPE type = mechanism ? mechanism->mechanism : 0;
    int rsa = type == CKM_RSA_PKCS || type == CKM_RSA_PKCS_OAEP || type == CKM_SHA256_RSA_PKCS || type == CKM_SHA256_RSA_PKCS_PSS;
    int ec = type == CKM_ECDSA || type == CKM_EDDSA || type == CKM_ECDH1_DERIVE;
    if (chance(15))
        return rsa || ec ? ONE_OF(0, 4711) : any_key();
    return rsa ? walk_keys[private ? 4 : 3] : ec ? walk_keys[5] : type == CKM_SHA256_HMAC ? walk_keys[2] : walk_keys[below(2)];
}

/* ---- Templates --------------------------------------------------------------------------------------- */

static CK_ATTRIBUTE walk_template[12], inner_template[4], deep_template[2];
static CK_ULONG numbers[12];
static CK_BBOOL truths[2] = { 0, 1 };
static CK_MECHANISM_TYPE allowed[4] = { CKM_AES_CBC, CKM_AES_GCM, CKM_SHA256_HMAC, 0x80004711 };

static CK_ATTRIBUTE any_attribute(CK_ULONG *number, int may_nest)
{
    struct in in = any_in();
    switch (below(may_nest ? 12 : 9)) {
    case 0: return (CK_ATTRIBUTE){ CKA_LABEL, (void *)(uintptr_t)in.bytes, in.count };
    case 1: return (CK_ATTRIBUTE){ CKA_ID, (void *)(uintptr_t)in.bytes, in.count };
    case 2: return (CK_ATTRIBUTE){ ONE_OF(CKA_ENCRYPT, CKA_SIGN, CKA_DERIVE, CKA_WRAP, CKA_MODIFIABLE), &truths[below(2)], 1 };
    case 3: return (CK_ATTRIBUTE){ ONE_OF(CKA_EXTRACTABLE, CKA_SENSITIVE), &truths[below(2)], 1 };
    case 4: return (CK_ATTRIBUTE){ CKA_APPLICATION, (void *)(uintptr_t)in.bytes, in.count };
    case 5: return (CK_ATTRIBUTE){ ONE_OF(CKA_START_DATE, CKA_END_DATE), (void *)(uintptr_t)"20260102", chance(50) ? 8 : 0 };
    case 6: return (CK_ATTRIBUTE){ 0x80004711, (void *)(uintptr_t)in.bytes, in.count };
    case 7: *number = ONE_OF(16, 24, 32); return (CK_ATTRIBUTE){ CKA_VALUE_LEN, number, sizeof *number };
    case 8: return (CK_ATTRIBUTE){ CKA_ENCAPSULATE, &truths[below(2)], 1 };
    case 9: return (CK_ATTRIBUTE){ CKA_ALLOWED_MECHANISMS, chance(90) ? allowed : NULL, 0 };
    default: return (CK_ATTRIBUTE){ ONE_OF(CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE), NULL, 0 };
    }
}

/* More attributes after the first `count`; how many there are then. */
static CK_ULONG more_attributes(CK_ULONG count)
{
    CK_ULONG wanted = count + below(4);
    int nested = 0;
    for (; count < wanted; count++) {
        CK_ATTRIBUTE one = any_attribute(&numbers[count], !nested);
        if (one.type == CKA_ALLOWED_MECHANISMS && one.pValue)
            one.ulValueLen = below(COUNT(allowed) + 1) * sizeof *allowed;
        if (is_template(one.type) && chance(90)) {
            CK_ULONG inside = below(COUNT(inner_template) + 1);
            for (CK_ULONG i = 0; i < inside; i++)
                inner_template[i] = any_attribute(&numbers[8 + i], 0);
            if (inside > 0 && deterministic && chance(20)) {
                deep_template[0] = any_attribute(&numbers[7], 0);
                inner_template[0] = (CK_ATTRIBUTE){ CKA_WRAP_TEMPLATE, deep_template, below(2) * sizeof *deep_template };
            }
            one.pValue = inner_template, one.ulValueLen = inside * sizeof *inner_template;
            nested = 1;
        }
        walk_template[count] = one;
    }
    return count;
}

static CK_ULONG data_template(void)
{
    numbers[0] = CKO_DATA;
    walk_template[0] = (CK_ATTRIBUTE){ CKA_CLASS, &numbers[0], sizeof numbers[0] };
    walk_template[1] = (CK_ATTRIBUTE){ CKA_TOKEN, &truths[0], 1 };
    return more_attributes(2);
}
static CK_ULONG secret_template(int with_value)
{
    CK_ULONG count = 0;
    numbers[0] = CKO_SECRET_KEY, numbers[1] = chance(50) ? CKK_AES : CKK_GENERIC_SECRET;
    walk_template[count++] = (CK_ATTRIBUTE){ CKA_CLASS, &numbers[0], sizeof numbers[0] };
    walk_template[count++] = (CK_ATTRIBUTE){ CKA_KEY_TYPE, &numbers[1], sizeof numbers[1] };
    walk_template[count++] = (CK_ATTRIBUTE){ CKA_TOKEN, &truths[0], 1 };
    walk_template[count++] = (CK_ATTRIBUTE){ CKA_PRIVATE, &truths[0], 1 };
    if (with_value)
        walk_template[count++] = (CK_ATTRIBUTE){ CKA_VALUE, DATA + below(100), ONE_OF(16, 16, 24, 32) };
    return more_attributes(count);
}

/* Types and rooms for C_GetAttributeValue; arrays inside as an application has them, all zero. */
static CK_ULONG asked_template(void)
{
    CK_ULONG count = below(5) + (chance(95) ? 1 : 0);
    area_used = 0;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_ATTRIBUTE_TYPE type = ONE_OF(CKA_CLASS, CKA_LABEL, CKA_ID, CKA_VALUE, CKA_KEY_TYPE, CKA_MODULUS, CKA_EC_PARAMS, CKA_SENSITIVE,
                                        CKA_START_DATE, CKA_APPLICATION, CKA_ALLOWED_MECHANISMS, 0x80004711);
        CK_ULONG room = ONE_OF(0, 1, 7, 8, 9, 16, 128, 1000, 4096);
        walk_template[i] = chance(25) ? (CK_ATTRIBUTE){ type, NULL, 0 } : (CK_ATTRIBUTE){ type, fresh(room), room };
    }
    if (count > 0 && chance(15)) {
        memset(inner_template, 0, sizeof inner_template);
        CK_ULONG inside = below(COUNT(inner_template) + 1);
        for (CK_ULONG i = 0; i < inside; i++)
            if (chance(70)) {
                inner_template[i].ulValueLen = ONE_OF(0, 1, 8, 500, 4096);
                inner_template[i].pValue = fresh(inner_template[i].ulValueLen);
            }
        walk_template[count - 1] = (CK_ATTRIBUTE){ ONE_OF(CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE), inner_template, inside * sizeof *inner_template };
    }
    return count;
}

/* ---- Steps ------------------------------------------------------------------------------------------ */

static void step_begin(struct place *at)
{
    static const char *const names[] = { "C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_VerifyInit", "C_SignRecoverInit", "C_VerifyRecoverInit" };
    unsigned long which = below(chance(90) ? 4 : 6);
    struct choice choice = any_mechanism();
    if (chance(15)) {
        digest_init(at->session, chance(90) ? M(CKM_SHA256) : choice.mechanism);
        return;
    }
    /* RSA_PKCS signs the same each time and encrypts differently. */
    int random = choice.random_output == 1 || (choice.random_output == 2 && which == 0);
    if (init(names[which], at->session, choice.mechanism, key_for(choice.mechanism, which == 1 || which == 2)) == CKR_OK) {
        at->random_output |= random;
        at->doing = which;
    }
}

/* Mostly what the operation that was begun last allows, and half of the time in one part. */
static void step_data(struct place *at)
{
    static const char *const whole[] = { "C_Encrypt", "C_Decrypt", "C_Sign", "C_Verify", "C_SignRecover", "C_VerifyRecover" };
    static const char *const updates[] = { "C_EncryptUpdate", "C_DecryptUpdate", "C_SignUpdate", "C_VerifyUpdate" };
    static const char *const finals[] = { "C_EncryptFinal", "C_DecryptFinal", "C_SignFinal", "C_VerifyFinal" };
    unsigned long which = chance(90) && at->doing < 6 ? at->doing : below(6), how = which < 4 ? below(4) : 0;
    CK_RV rv;
    hidden = at->random_output;
    if (how <= 1 && which == 3)
        rv = two(whole[which], at->session, any_in(), any_in());
    else if (how <= 1)
        rv = transform(whole[which], at->session, any_in(), any_room());
    else if (how == 2 && which <= 1)
        rv = transform(updates[which], at->session, any_in(), any_room());
    else if (how == 2)
        rv = update(updates[which], at->session, any_in());
    else if (which <= 2)
        rv = last(finals[which], at->session, any_room());
    else
        rv = update(finals[which], at->session, any_in());
    hidden = 0;
    if (how != 2 && rv != CKR_BUFFER_TOO_SMALL)
        at->doing = NOTHING_BEGUN;
}

static void step_digest(struct place *at)
{
    switch (below(6)) {
    case 0: case 1: transform("C_Digest", at->session, any_in(), any_room()); break;
    case 2: update("C_DigestUpdate", at->session, any_in()); break;
    case 3: digest_key(at->session, any_key()); break;
    case 4: digest_init(at->session, M(CKM_SHA256)); break;
    default: last("C_DigestFinal", at->session, any_room());
    }
}

static void step_object(struct place *at)
{
    CK_OBJECT_HANDLE made = NO_HANDLE;
    struct thing *thing = any_thing();
    CK_ULONG count;
    switch (below(14)) {
    case 0: case 1:
        count = chance(50) ? data_template() : secret_template(1);
        create_object(at->session, chance(98) ? walk_template : NULL, chance(98) ? count : 0, chance(97) ? &made : NULL);
        add_thing(made, 0);
        break;
    case 2:
        count = more_attributes(0);
        if (copy_object(at->session, thing->handle, count ? walk_template : NULL, count, chance(97) ? &made : NULL) == CKR_OK)
            add_thing(made, thing->random);
        break;
    case 3:
        count = more_attributes(0);
        set_attributes(at->session, thing->handle, count ? walk_template : NULL, count);
        break;
    case 4:
        if (thing >= things && thing < things + COUNT(things))
            destroy_object(at->session, thing->handle);
        break;
    case 5: get_object_size(at->session, thing->handle, chance(90)); break;
    case 6: case 7:
        count = more_attributes(0);
        find_init(at->session, count ? walk_template : NULL, count);
        break;
    case 8: case 9: find_objects(at->session, 1, ONE_OF(0, 1, 2, 10, 100), chance(95)); break;
    case 10: plain("C_FindObjectsFinal", at->session); break;
    default:
        count = asked_template();
        hidden = thing->random;
        get_attributes(at->session, thing->handle, count ? walk_template : NULL, count);
        hidden = 0;
    }
}

static void step_derive(struct place *at)
{
    static CK_OBJECT_HANDLE extra;
    static CK_BYTE output[40];
    static CK_ULONG output_length;
    static CK_ATTRIBUTE extra_template[1];
    static CK_DERIVED_KEY extra_key;
    static CK_SSL3_KEY_MAT_OUT material;
    static CK_VERSION version;
    static CK_PRF_DATA_PARAM data[3];
    static CK_SP800_108_COUNTER_FORMAT counter;
    union parameter *p = &parameters[0];
    CK_MECHANISM *mechanism = NULL, into_parameter;
    CK_OBJECT_HANDLE base = walk_keys[below(3)], made = NO_HANDLE;
    CK_ULONG count = secret_template(0), shared, data_length;
    int only_parameter = 0;
    memset(p, 0, sizeof *p);
    switch (below(12)) {
    case 0: case 1:
        p->ecdh.kdf = ONE_OF(CKD_NULL, CKD_NULL, CKD_NULL, CKD_SHA256_KDF);
        p->ecdh.pSharedData = chance(80) ? NULL : input(any_in(), &shared);
        p->ecdh.ulSharedDataLen = p->ecdh.pSharedData ? shared : 0;
        p->ecdh.pPublicData = (CK_BYTE *)(uintptr_t)POINT, p->ecdh.ulPublicDataLen = sizeof POINT;
        if (chance(10))
            p->ecdh.pPublicData = input(any_in(), &p->ecdh.ulPublicDataLen);
        mechanism = parameter_of(CKM_ECDH1_DERIVE, p, sizeof p->ecdh), base = walk_keys[5];
        break;
    case 2: case 3:
        memcpy(p->cbc.iv, IV, 16);
        p->cbc.pData = input(any_in(), &p->cbc.length);
        mechanism = parameter_of(CKM_AES_CBC_ENCRYPT_DATA, p, sizeof p->cbc), base = walk_keys[below(2)];
        break;
    case 4: case 5:
        p->string.pData = input(any_in(), &p->string.ulLen);
        mechanism = parameter_of(ONE_OF(CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_ECB_ENCRYPT_DATA, CKM_XOR_BASE_AND_DATA), p, sizeof p->string);
        break;
    case 6:
        p->hkdf = (CK_HKDF_PARAMS){ .bExtract = (CK_BBOOL)below(2), .bExpand = 1, .prfHashMechanism = CKM_SHA256, .ulSaltType = ONE_OF(1, 2, 4) };
        p->hkdf.hSaltKey = p->hkdf.ulSaltType == CKF_HKDF_SALT_KEY ? walk_keys[2] : 0;
        p->hkdf.pSalt = input(any_in(), &p->hkdf.ulSaltLen);
        p->hkdf.pInfo = input(any_in(), &p->hkdf.ulInfoLen);
        mechanism = parameter_of(CKM_HKDF_DERIVE, p, sizeof p->hkdf);
        break;
    case 7:
        memset(&counter, 0, sizeof counter);
        counter.ulWidthInBits = ONE_OF(8, 16, 32);
        data[0] = (CK_PRF_DATA_PARAM){ CK_SP800_108_ITERATION_VARIABLE, &counter, sizeof counter };
        data[1] = (CK_PRF_DATA_PARAM){ CK_SP800_108_BYTE_ARRAY, NULL, 0 };
        data[1].pValue = input(any_in(), &data_length), data[1].ulValueLen = data_length;
        data[2] = (CK_PRF_DATA_PARAM){ CK_SP800_108_KEY_HANDLE, &walk_keys[0], sizeof walk_keys[0] };
        extra = NO_HANDLE;
        extra_template[0] = any_attribute(&numbers[7], 0);
        extra_key = (CK_DERIVED_KEY){ extra_template, below(2), &extra };
        p->kdf = (CK_SP800_108_KDF_PARAMS){ CKM_SHA256_HMAC, below(4), data, below(2), &extra_key };
        mechanism = parameter_of(CKM_SP800_108_COUNTER_KDF, p, sizeof p->kdf);
        break;
    case 8:
        memset(output, PATTERN, sizeof output);
        material = (CK_SSL3_KEY_MAT_OUT){ NO_HANDLE, NO_HANDLE, NO_HANDLE, NO_HANDLE, output, chance(80) ? output + 16 : NULL };
        p->tls = (CK_TLS12_KEY_MAT_PARAMS){ 160, 128, ONE_OF(0, 64, 128, 121), (CK_BBOOL)below(2), { DATA, 32, DATA + 9, below(33) }, chance(90) ? &material : NULL, CKM_SHA256 };
        into_parameter = (CK_MECHANISM){ CKM_TLS12_KEY_AND_MAC_DERIVE, p, sizeof p->tls };
        mechanism = &into_parameter;
        only_parameter = 1;
        break;
    case 9:
        version = (CK_VERSION){ 9, 9 };
        p->master = (CK_TLS12_MASTER_KEY_DERIVE_PARAMS){ { DATA, 32, NULL, 0 }, chance(80) ? &version : NULL, CKM_SHA256 };
        mechanism = parameter_of(CKM_TLS12_MASTER_KEY_DERIVE, p, sizeof p->master);
        break;
    case 10:
        output_length = below(sizeof output);
        memset(output, PATTERN, sizeof output);
        p->prf = (CK_TLS_PRF_PARAMS){ DATA, 20, NULL, 0, output, chance(90) ? &output_length : NULL };
        p->prf.pLabel = input(any_in(), &p->prf.ulLabelLen);
        into_parameter = (CK_MECHANISM){ CKM_TLS_PRF, p, sizeof p->prf };
        mechanism = &into_parameter;
        only_parameter = 1;
        break;
    default:
        p->handle = any_key();
        mechanism = parameter_of(CKM_CONCATENATE_BASE_AND_KEY, p, sizeof p->handle);
    }
    derive_key(at->session, mechanism, chance(90) || base == walk_keys[5] ? base : any_key(), count ? walk_template : NULL, count, only_parameter || chance(3) ? NULL : &made);
    add_thing(made, 0);
}

static void step_key(struct place *at)
{
    CK_OBJECT_HANDLE made = NO_HANDLE;
    struct choice choice = any_mechanism();
    CK_MECHANISM *mechanism = chance(70) ? M(CKM_AES_KEY_WRAP) : choice.mechanism;
    CK_ULONG count = secret_template(0);
    int handle = chance(97);
    switch (below(9)) {
    case 0:
        numbers[2] = 16;
        walk_template[0] = (CK_ATTRIBUTE){ CKA_VALUE_LEN, &numbers[2], sizeof numbers[2] };
        walk_template[1] = (CK_ATTRIBUTE){ CKA_TOKEN, &truths[0], 1 };
        count = more_attributes(2);
        if (generate_key(at->session, chance(90) ? M(CKM_AES_KEY_GEN) : choice.mechanism, walk_template, count, handle ? &made : NULL) == CKR_OK)
            add_thing(made, 1);
        break;
    case 1: case 2:
        hidden = choice.random_output;
        wrap_key(at->session, mechanism, key_for(mechanism, 0), any_key(), any_room());
        hidden = 0;
        break;
    case 3: wrap_authenticated(at->session, mechanism, key_for(mechanism, 0), any_key(), any_in(), any_room()); break;
    case 4: case 5:
        unwrap_key(at->session, mechanism, key_for(mechanism, 1), any_in(), walk_template, count, handle ? &made : NULL);
        add_thing(made, 0);
        break;
    case 6:
        unwrap_authenticated(at->session, mechanism, key_for(mechanism, 1), any_in(), walk_template, count, any_in(), handle ? &made : NULL);
        add_thing(made, 0);
        break;
    case 7:
        encapsulate_key(at->session, chance(80) ? M(CKM_ML_KEM) : choice.mechanism, any_key(), walk_template, count, any_room(), handle ? &made : NULL);
        add_thing(made, 0);
        break;
    default:
        decapsulate_key(at->session, chance(80) ? M(CKM_ML_KEM) : choice.mechanism, any_key(), walk_template, count, any_in(), handle ? &made : NULL);
        add_thing(made, 0);
    }
}

static void step_message(struct place *at)
{
    static const char *const inits[] = { "C_MessageEncryptInit", "C_MessageDecryptInit", "C_MessageSignInit", "C_MessageVerifyInit" };
    static const char *const finals[] = { "C_MessageEncryptFinal", "C_MessageDecryptFinal", "C_MessageSignFinal", "C_MessageVerifyFinal" };
    static CK_BYTE iv[16], tag[32];
    static union { CK_GCM_MESSAGE_PARAMS gcm; CK_CCM_MESSAGE_PARAMS ccm; CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS poly; } p;
    enum message kind = (enum message)below(4);
    CK_SESSION_HANDLE session = at->session;
    if (!at->active[kind] ? chance(70) : chance(5)) {
        CK_MECHANISM_TYPE type = kind >= SIGNS ? CKM_SHA256_HMAC : ONE_OF(CKM_AES_GCM, CKM_AES_GCM, CKM_AES_CCM, CKM_CHACHA20_POLY1305);
        CK_MECHANISM *mechanism = chance(95) ? M(type) : NULL;
        if (init(inits[kind], session, mechanism, any_key()) == CKR_OK)
            at->active[kind] = mechanism != NULL, at->type[kind] = type;
        return;
    }
    if (chance(15)) {
        if (plain(finals[kind], session) == CKR_OK)
            at->active[kind] = 0;
        return;
    }
    memcpy(iv, DATA, sizeof iv), memset(tag, PATTERN, sizeof tag);
    CK_MECHANISM_TYPE type = at->type[kind];
    CK_GENERATOR_FUNCTION generator = kind == SEALS ? below(4) : CKG_NO_GENERATE;
    struct in parameter = chance(50) ? NO : EMPTY;
    if (at->active[kind] && chance(95)) {
        if (type == CKM_AES_GCM) {
            p.gcm = (CK_GCM_MESSAGE_PARAMS){ iv, ONE_OF(12, 12, 16, 0), ONE_OF(0, 32, 36), generator, chance(95) ? tag : NULL, ONE_OF(128, 96, 0) };
            p.gcm.ulTagBits = p.gcm.pTag ? p.gcm.ulTagBits : 0;
            parameter = B(&p, sizeof p.gcm);
        } else if (type == CKM_AES_CCM) {
            p.ccm = (CK_CCM_MESSAGE_PARAMS){ below(50), iv, 12, ONE_OF(0, 32), generator, tag, ONE_OF(16, 8) };
            parameter = B(&p, sizeof p.ccm);
        } else if (type == CKM_CHACHA20_POLY1305) {
            p.poly = (CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS){ iv, 12, tag };
            parameter = B(&p, sizeof p.poly);
        } else if (chance(30)) {
            parameter = any_in();
        }
    }
    int way = (int)below(3);
    hidden = generator != CKG_NO_GENERATE;
    if (kind <= OPENS && way == 0)
        whole_message(kind == SEALS ? "C_EncryptMessage" : "C_DecryptMessage", session, type, parameter, any_in(), any_in(), any_room());
    else if (kind <= OPENS && way == 1)
        begin_message(kind == SEALS ? "C_EncryptMessageBegin" : "C_DecryptMessageBegin", session, type, parameter, any_in());
    else if (kind <= OPENS)
        next_message(kind == SEALS ? "C_EncryptMessageNext" : "C_DecryptMessageNext", session, type, parameter, any_in(), any_room(), below(2));
    else if (way == 1)
        begin_signature(session, type, parameter, kind == VERIFIES);
    else if (kind == SIGNS)
        sign_message(session, type, parameter, any_in(), any_room(), way == 2);
    else
        verify_message(session, type, parameter, any_in(), any_in(), way == 2);
    hidden = 0;
}

static void step_signature(struct place *at)
{
    struct choice choice = any_mechanism();
    switch (below(4)) {
    case 0: verify_signature_init(at->session, choice.mechanism, key_for(choice.mechanism, 0), any_in()); break;
    case 1: update("C_VerifySignature", at->session, any_in()); break;
    case 2: update("C_VerifySignatureUpdate", at->session, any_in()); break;
    default: plain("C_VerifySignatureFinal", at->session);
    }
}

static void step_other(struct place *at)
{
    static const char *const duals[] = { "C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate" };
    CK_FLAGS flags;
    switch (below(16)) {
    case 0:
        hidden = at->random_output;
        transform(duals[below(4)], at->session, any_in(), any_room());
        hidden = 0;
        break;
    case 1: get_session_info(chance(95) ? at->session : 4711, chance(95)); break;
    case 2: generate_random(at->session, chance(90) ? SPACE(ONE_OF(0, 1, 32, 1000)) : NOWHERE); break;
    case 3: update("C_SeedRandom", at->session, any_in()); break;
    case 4: last("C_GetOperationState", at->session, any_room()); break;
    case 5: set_operation_state(at->session, any_in(), chance(50) ? 0 : any_key(), 0); break;
    case 6: validation_flags(at->session, below(3), chance(90)); break;
    case 7:
        flags = ONE_OF(CKF_ENCRYPT, CKF_DIGEST, CKF_SIGN, CKF_FIND_OBJECTS, CKF_MESSAGE_ENCRYPT | CKF_DECRYPT, CKF_MESSAGE_VERIFY, 0);
        if (session_cancel(at->session, flags) == CKR_OK)
            for (int kind = 0; kind < 4; kind++)
                at->active[kind] &= !(flags & MESSAGE_FLAGS[kind]);
        break;
    case 8: get_mechanism_info(slot, ONE_OF(CKM_AES_GCM, CKM_ML_DSA, CKM_RSA_PKCS, 0x80004711), chance(95)); break;
    case 9: get_slot_list(CK_TRUE, any_room()); break;
    case 10: get_mechanism_list(slot, chance(50) ? any_room() : SPACE(300)); break;
    case 11: login(at->session, ONE_OF(CKU_USER, CKU_USER, CKU_CONTEXT_SPECIFIC), chance(90) ? PIN : chance(50) ? NO : EMPTY); break;
    case 12:
        if (chance(30))
            plain("C_Logout", at->session);
        break;
    case 13: login_user(at->session, CKU_USER, PIN, any_in()); break;
    case 14: wait_for_slot_event(CKF_DONT_BLOCK, chance(90), NULL); break;
    default: get_token_info(chance(90) ? slot : 4711, chance(95));
    }
}

/* Ends what a session has under way. */
static void step_session(struct place *at)
{
    plain("C_CloseSession", at->session);
    *at = (struct place){ .session = opened(RW), .doing = NOTHING_BEGUN };
}

static void walk(unsigned long long seed, unsigned long count)
{
    static void (*const steps[])(struct place *) = { step_digest, step_object, step_derive, step_key, step_message, step_signature, step_other };
    if (!start())
        return;
    keeper = opened(RW);
    login(keeper, CKU_USER, PIN);
    walk_keys[0] = secret(CKK_AES, 16), walk_keys[1] = secret(CKK_AES, 32), walk_keys[2] = secret(CKK_GENERIC_SECRET, 32);
    walk_keys[3] = rsa_public(), walk_keys[4] = rsa_private(), walk_keys[5] = ec_private();
    for (size_t i = 0; i < COUNT(places); i++)
        places[i] = (struct place){ .session = opened(i == 2 ? RO : RW), .doing = NOTHING_BEGUN };
    walk_state = seed;
    for (unsigned long i = 0; i < count; i++) {
        struct place *at = &places[below(COUNT(places))];
        unsigned long which = below(100);
        if (which < 45 && (at->doing == NOTHING_BEGUN ? chance(85) : chance(10)))
            step_begin(at);
        else if (which < 45)
            step_data(at);
        else if (which < 51)
            step_session(at);
        else
            steps[below(COUNT(steps))](at);
    }
    stop();
}
