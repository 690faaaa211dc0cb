"""The verbs that a commit's subject may begin with to read as an instruction."""

_TEXT = """
    abort abstract accelerate accept access accommodate accumulate achieve acknowledge acquire activate adapt add address
    adhere adjust adopt advance advertise aggregate align allocate allot allow alter amend amplify analyse analyze animate
    annotate anonymize answer append apply approve archive arrange assert assign associate assume attach attempt augment
    authenticate authorize automate avoid await
    backport backup balance batch begin bind block boost bootstrap bound break bring broadcast brush buffer build bump bundle
    bypass
    cache calculate call cancel capitalize capture cast catch center centralize chain change check choose clamp clarify clean
    cleanup clear clip clone close coerce collapse collect color colorize combine comment commit compact compare compile
    complete comply compose compress compute concatenate condense configure confirm connect consider consolidate constrain
    consume contain convert copy correct count cover crash create crop customize cut
    deal debounce debug decide decipher declare decode decommission decomplexify decompress decouple decrease decrement
    decrypt dedent deduplicate default defer define delay delegate delete demonstrate denote deny depend deploy deprecate
    derive describe deserialize designate destroy detach detect determine develop diminish direct disable disallow discard
    disconnect discourage disentangle dismantle dispatch display dispose distinguish distribute divide do document don't double
    downgrade download drain draw drop dump duplicate
    ease edit eliminate email embed emit emphasize emulate enable encapsulate encode encourage encrypt end enforce enhance
    enlarge ensure enter enumerate eradicate escalate escape establish estimate evaluate evict examine exclude exec execute
    exercise exit expand expect expedite expire explain export expose express extend extract
    facilitate factor fail fake favor feed fetch fill filter finalize find finish fire fix flag flatten flesh flip flush focus
    fold follow forbid force forget fork format forward free freeze fulfill further
    gather generalize generate get give glue grab grant group guarantee guard guess
    halt handle harden hash hasten hide highlight hoist hold honor hook
    identify ignore implement import improve include incorporate increase increment indent index indicate infer inflate inform
    inherit init initialise initialize inject inline insert inspect install instantiate instruct instrument integrate
    interpolate interpret interrupt introduce invalidate invert investigate invoke isolate iterate
    join jump justify
    keep kill
    label launch leave lengthen let leverage lift limit link lint list listen load localize locate lock log lookup loop loosen
    lower
    magnify mail maintain make manage map mark mask match materialize maximize measure mend mention merge migrate mimic minify
    minimize mirror mitigate mock modernize modify modularize monitor mount move multiply mute
    name narrow navigate neutralize normalise normalize note notify nullify number
    obey obfuscate obtain offer offload omit open optimise optimize orchestrate order organise organize output overload
    override overwrite
    package pad paginate parallelize parameterize paraphrase parse pass paste patch pause perform permit persist pick pin
    place play plug point polish poll pop populate port position post postpone prefer prefix preload prepare prepend present
    preserve prevent print prioritize probe process produce profile prohibit promote prompt propagate protect prove provide
    provision prune publish pull purge push put
    qualify query queue quieten quit quote
    raise randomize read readd realign reannotate rearrange rebase reboot rebuild recalculate receive recognise recognize
    recommend recomment recompile reconcile reconfigure reconnect record recover rectify recurse redact redefine redesign
    redirect redo redraw reduce reenable refactor refer reference refine reflect reformat refresh refuse regenerate register
    regulate reimplement reinforce reinstall reinstate reintroduce reject relate relax release reload relocate rely remap
    remember remove rename render reopen reorder reorganise reorganize repackage repair repeat rephrase replace report
    reposition represent reproduce request require reschedule rescue reserve reset reshape resize resolve respect respond
    restart restore restrict restructure resume retain rethrow retire retrieve retry return reuse revamp reverse revert review
    revise revive revoke reword rework rewrite rollback rotate round route run
    sanitise sanitize satisfy save scale scan schedule scroll scrub seal search secure seed select send separate serialize
    serve set settle setup shade share shift shorten show shrink shuffle shut shutdown signal silence simplify simulate skip
    slice slim slow solve sort spawn specialize specify speed split spread stabilise stabilize stack stage standardise
    standardize start state stipulate stop store streamline strengthen stretch strip structure stub style submit subscribe
    substitute subtract summarize supply support suppress surface surround suspend swallow swap switch sync synchronize
    tackle tag take target teach teardown tell terminate test throttle throw tidy tighten time toggle tolerate touch trace
    track train transfer transform transition translate transpose traverse treat trigger trim troubleshoot truncate try tune
    turn tweak type
    unblock uncomment uncover undeprecate undo unescape unhide unify uninstall unlink unload unlock unmount unpack unpin
    unplug unpublish unravel unregister unset unskip unstage unsubscribe unsync untangle unwind unwrap unzip update upgrade
    upload use utilise utilize
    validate vendor verify version view visit visualize
    wait walk warn watch watermark weaken whitelist widen wipe wire withdraw work wrap write
    yank yield
    zero zip zoom
"""
VERBS = frozenset(_TEXT.split())


def is_imperative(word: str, *, third_person: bool = False) -> bool:
    """Whether an instruction can begin with this word.

    Args:
        third_person: let "Fixes" pass for "Fix".

    >>> is_imperative("Fix"), is_imperative("Fixes"), is_imperative("Fixes", third_person=True), is_imperative("Fixed")
    (True, False, True, False)
    """
    word = word.lower().replace("’", "'")
    if word in VERBS or word.replace("-", "") in VERBS:  # re-add
        return True
    return third_person and any(word.endswith(ending) and word[:-len(ending)] + base in VERBS
                                for ending, base in (("s", ""), ("es", ""), ("ies", "y")))
