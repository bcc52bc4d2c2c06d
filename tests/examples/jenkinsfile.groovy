// Runs a declarative Jenkinsfile with the parameters that are given (NAME=VALUE ...) and prints what its stages would do, one JSON
// object a line: {"stage": ..., "env": {...}, "steps": [["sh", "..."], ["stash", "artifact", "FILES"], ...]}.
//
// Groovy itself reads the file (Debian has 2.4, the version Jenkins is built on), so syntax errors and misplaced braces are found, and
// what is printed is what the file says, not what a pattern saw in it. Directives and steps are known by name below: any other is an
// error. What plugins do with them, and whether a Jenkins has these plugins, agents and credentials, is not shown by this.
import groovy.json.JsonOutput
import org.codehaus.groovy.control.CompilerConfiguration

/** A block of the file: each directive or step in it calls what stands here under its name. */
class Block {
    Map<String, Closure> known
    Map<String, Object> values = [:]
    Set<String> seen = []

    void run(Closure body) {
        body.delegate = this
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
    }

    def methodMissing(String name, args) {
        def meaning = known[name]
        if (meaning == null) throw new IllegalStateException("`$name` does not belong here, or is not known to this check")
        seen << name
        meaning(*args)
    }

    def propertyMissing(String name) {
        if (values.containsKey(name)) return values[name]
        throw new IllegalStateException("`$name` is not known here")
    }
}

/** The names and values of an `environment` block. */
class Settings {
    Map<String, String> values
    void setProperty(String name, value) { values[name] = value.toString() }
}

abstract class Pipeline extends Script {
    static Map<String, String> given = [:]

    def ignore = { Object... all -> null }
    def plain = { String text -> text }

    void pipeline(Closure body) {
        def params = [:]
        def parameter = { Map about ->
            def value = given.containsKey(about.name) ? given[about.name] : about.choices ? about.choices[0] : about.defaultValue
            if (about.choices && !(value in about.choices)) throw new IllegalStateException("${about.name} can't be `$value`")
            params[about.name] = value
        }
        def top = new Block(values: [none: 'none'], known: [
            agent     : ignore,
            parameters: { Closure all -> new Block(known: [choice: parameter, string: parameter]).run(all) },
            options   : { Closure all -> options(all) },
            stages    : { Closure stages ->
                new Block(known: [stage: { String name, Closure all -> stage(name, params, all) }]).run(stages)
            },
        ])
        top.run(body)
        if (!top.seen.containsAll(['agent', 'stages'])) throw new IllegalStateException('a pipeline needs `agent` and `stages`')
    }

    void options(Closure all) {
        new Block(known: [disableConcurrentBuilds: ignore, timeout: ignore, buildDiscarder: ignore, logRotator: ignore]).run(all)
    }

    void stage(String name, Map params, Closure body) {
        def env = [:], steps = [], wanted = true
        def values = [params: params]
        def block = new Block(values: values, known: [
            agent      : { Closure which -> new Block(known: [label: plain]).run(which) },
            when       : { Closure all -> new Block(known: [beforeAgent: ignore, expression: { Closure it ->
                it.delegate = new Block(values: values, known: [:])
                it.resolveStrategy = Closure.DELEGATE_FIRST
                wanted = it()
            }]).run(all) },
            options    : { Closure all -> options(all) },
            environment: { Closure all ->
                all.delegate = new Settings(values: env)
                all.resolveStrategy = Closure.DELEGATE_ONLY
                all()
            },
            steps      : { Closure all -> work(values, steps, all) },
            post       : { Closure all -> new Block(known: [always: { Closure it -> work(values, steps, it) }]).run(all) },
        ])
        block.run(body)
        if (!('steps' in block.seen)) throw new IllegalStateException("the stage `$name` has no `steps`")
        // Parameters are in the environment of what runs; a stage's own settings go before them.
        if (wanted) println(JsonOutput.toJson([stage: name, env: params + env, steps: steps]))
    }

    void work(Map values, List steps, Closure all) {
        def credential = { String variable, Map about -> [about[variable], about.credentialsId.toString()] }
        new Block(values: values, known: [
            sh               : { text ->
                if (!(text instanceof String)) throw new IllegalStateException("Groovy puts values into `$text`: use single quotes")
                steps << ['sh', text]
            },
            stash            : { Map about -> steps << ['stash', about.name, about.includes] },
            unstash          : { String stash -> steps << ['unstash', stash] },
            input            : { Map about -> steps << ['input', about.message] },
            archiveArtifacts : { Map about -> steps << ['archive', about.artifacts] },
            sshUserPrivateKey: credential.curry('keyFileVariable'),
            file             : credential.curry('variable'),
            withCredentials  : { List credentials, Closure inner ->
                credentials.each { steps << ['secret', it[0], it[1]] }
                work(values, steps, inner)
                credentials.each { steps << ['forget', it[0]] }
            },
        ]).run(all)
    }
}

Pipeline.given = args.drop(1).collectEntries { it.split('=', 2) as List }
def settings = new CompilerConfiguration(scriptBaseClass: Pipeline.name)
new GroovyShell(this.class.classLoader, new Binding(), settings).evaluate(new File(args[0]))
